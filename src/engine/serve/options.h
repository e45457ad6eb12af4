/*
 * options.h
 *     The engine's command line.
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
    int threads; /* 0: one per core */
    int max_batch_tokens;
    size_t adapter_cache_size, memory_limit;
    const char *sha256;      /* hexadecimal, of the backbone; NULL: any */
    int status_fd, death_fd; /* -1 = none */
    const char *adapter, *choices, *out;
    int max_input_tokens;
    const char *method_options; /* JSON; NULL: the standard ones */
    ia3_recipe recipe;
    int n_arguments; /* the arguments after the options */
    char **arguments;
} ia3_options;

/*
 * Parses the command line and fills in defaults. Returns -1 if the command should be run, else the exit status: 0 after
 * --help or --version, 2 after an error, which it logs.
 */
int ia3_options_parse(ia3_options *o, int argc, char **argv);

#endif
