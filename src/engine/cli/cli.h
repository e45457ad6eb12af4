/*
 * cli.h
 *     The engine's commands other than serve: info, tokenize, score and train. They read stdin and files.
 */
#ifndef IA3_CLI_H
#define IA3_CLI_H

#include "engine/serve/serve.h"

/* Runs options->command. Returns the exit status; 1 after an error, which it logs. */
int ia3_cli(const ia3_options *options);

/* Reads one text per line from stdin and prints the predictions. */
bool ia3_cli_score(ia3_server *s, ia3_error *err);

/* cli_train.c: reads lines "text<TAB>label" from stdin, trains, and writes the adapter to options->out. */
bool ia3_cli_train(ia3_server *s, ia3_error *err);

/* The following functions are shared by score and train. */
/* Reads a whole file into malloc'd memory. NULL with IA3_E_INVALID. */
uint8_t *ia3_cli_read_file(const char *path, size_t *len, ia3_error *err);
/* Reads the adapter in options->adapter: malloc'd values and the layout. NULL without an error if there is none. */
float *ia3_cli_adapter(ia3_server *s, const ia3_layout **layout, ia3_error *err);
/* Splits `text` at '|' into malloc'd spans, which point into it. Returns their number. */
int ia3_cli_choices(const char *text, ia3_span **spans);

#endif
