/*
 * peft_config.c
 *     What the methods' readers of PEFT's configuration have in common.
 */
#include "peft_config.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool
ia3_peft_fail(ia3_error *err, const char *format, ...)
{
    char detail[sizeof err->detail];
    va_list args;

    va_start(args, format);
    vsnprintf(detail, sizeof detail, format, args);
    va_end(args);
    ia3_fail(err, IA3_E_INVALID, "invalid adapter configuration");
    return ia3_fail_detail(err, "%s", detail);
}

static bool
is_off(const json_t *value)
{
    return value == NULL || json_is_null(value) || json_is_false(value) ||
           (json_is_array(value) && json_array_size(value) == 0) ||
           (json_is_object(value) && json_object_size(value) == 0);
}

bool
ia3_peft_refuse(const json_t *config, const char *const *keys, ia3_error *err)
{
    for (; *keys; keys++)
        if (!is_off(json_object_get(config, *keys)))
            return ia3_peft_fail(err, "\"%s\" is not supported.", *keys);
    return true;
}

bool
ia3_peft_number(const json_t *config, const char *key, double *value, ia3_error *err)
{
    const json_t *member = json_object_get(config, key);

    if (!json_is_number(member))
        return ia3_peft_fail(err, "\"%s\" is missing or not a number.", key);
    *value = json_number_value(member);
    return true;
}

const char *
ia3_peft_string(const json_t *config, const char *key, const char *missing)
{
    const char *value = json_string_value(json_object_get(config, key));

    return value ? value : missing;
}
