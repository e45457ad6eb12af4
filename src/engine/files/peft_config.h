/*
 * peft_config.h
 *     Reads members of PEFT's adapter_config.json.
 *
 * Whatever a method cannot compute as PEFT would is refused. Errors are IA3_E_INVALID, "invalid adapter configuration",
 * with a detail that names the member.
 */
#ifndef IA3_PEFT_CONFIG_H
#define IA3_PEFT_CONFIG_H

#include <jansson.h>

#include "engine/base/error.h"

/* Sets the error and returns false. */
bool ia3_peft_fail(ia3_error *err, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Refuses each of these members (a list that ends with NULL) unless it is absent, null, false or empty. */
bool ia3_peft_refuse(const json_t *config, const char *const *keys, ia3_error *err);
/* A number, which must be there. */
bool ia3_peft_number(const json_t *config, const char *key, double *value, ia3_error *err);
/* A string; `missing` if it is absent, null or something else. */
const char *ia3_peft_string(const json_t *config, const char *key, const char *missing);

#endif
