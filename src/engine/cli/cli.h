/*
 * cli.h
 *     The engine's commands other than serve: check, info, tokenize, score and train. They read stdin and files.
 */
#ifndef IA3_CLI_H
#define IA3_CLI_H

#include "engine/serve/serve.h"

/* Runs options->command. Returns the exit status; 1 after an error, which it logs. */
int ia3_cli(const ia3_options *options);

/* check.c: says what a checkpoint is. Returns the exit status; 1 if the engine cannot use it. */
int ia3_cli_check(const ia3_options *options);

/* Reads one text per line from stdin and prints the predictions. */
bool ia3_cli_score(ia3_server *s, ia3_error *err);

/* cli_train.c: reads lines "text<TAB>label" from stdin, trains, and writes the adapter to options->out. */
bool ia3_cli_train(ia3_server *s, ia3_error *err);

#endif
