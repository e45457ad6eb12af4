/*
 * cli.h
 *     The engine without a server: info, tokenize, score, train on files. One thread besides the device's.
 */
#ifndef IA3_CLI_H
#define IA3_CLI_H

#include "engine/serve/serve.h"

/* Runs options->command; returns the exit status (1 after an error, which is logged). */
int ia3_cli(const ia3_options *options);

/* Reads texts from stdin, prints their predictions. */
bool ia3_cli_score(ia3_server *s, ia3_error *err);

/* cli_train.c: reads text<TAB>label from stdin, writes options->out. */
bool ia3_cli_train(ia3_server *s, ia3_error *err);

/* Shared by score and train. */
/* Reads a whole file into malloc'd memory. */
uint8_t *ia3_cli_read_file(const char *path, size_t *len, ia3_error *err);
/* The host values of the adapter in options->adapter (malloc'd) and its layout, NULL with no error when there is none. */
float *ia3_cli_adapter(ia3_server *s, const ia3_layout **layout, ia3_error *err);
/* Splits options->choices at '|'; spans point into it. Returns their number. */
int ia3_cli_choices(const char *text, ia3_span **spans);

#endif
