/*
 * options.h
 *     The command line.
 */
#ifndef IA3_OPTIONS_H
#define IA3_OPTIONS_H

#include <stddef.h>

#include "engine/base/tensor.h"
#include "engine/recipe/recipe.h"

typedef struct ia3_options {
    const char *command; /* "serve", "info", "tokenize", "score", "train" */
    const char *name, *backbone, *socket, *device;
    ia3_dtype dtype;
    int threads; /* 0 = all */
    int max_batch_tokens;
    size_t adapter_cache_size, memory_limit;
    int status_fd, death_fd; /* -1 = none */
    const char *adapter, *choices, *out;
    int max_input_tokens;
    ia3_recipe recipe;
    int n_arguments; /* what follows the options */
    char **arguments;
} ia3_options;

/*
 * Fills in defaults and the arguments. Returns -1 to go on, else the exit status: after --help and --version
 * (0) or a mistake (2, logged).
 */
int ia3_options_parse(ia3_options *o, int argc, char **argv);

#endif
