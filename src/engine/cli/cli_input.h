/*
 * cli_input.h
 *     Input that several commands read.
 */
#ifndef IA3_CLI_INPUT_H
#define IA3_CLI_INPUT_H

#include "engine/serve/serve.h"

/* Reads a whole file into malloc'd memory. NULL with IA3_E_INVALID. */
uint8_t *ia3_cli_read_file(const char *path, size_t *len, ia3_error *err);
/* Reads the adapter in options->adapter: malloc'd values and the layout. NULL without an error if there is none. */
float *ia3_cli_adapter(ia3_server *s, const ia3_layout **layout, ia3_error *err);
/* Splits `text` at '|' into malloc'd spans, which point into it. Returns their number. */
int ia3_cli_choices(const char *text, ia3_span **spans);

#endif
