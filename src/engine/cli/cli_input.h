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

/* Encodes a line of stdin as at most options->max_input_tokens tokens; a longer one is cut at its end. */
bool ia3_cli_encode(ia3_server *s, const char *line, size_t len, int32_t **ids, int *n, bool *truncated,
                    ia3_error *err);
/* Logs how many of n inputs were truncated, if any were. */
void ia3_cli_report_truncated(const ia3_server *s, uint32_t n_truncated, uint32_t n);

#endif
