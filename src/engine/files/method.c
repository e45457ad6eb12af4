/*
 * method.c
 *     Lists of methods.
 */
#include "method.h"

#include <string.h>

const ia3_method *
ia3_method_find(const ia3_method *const *methods, const char *name, size_t len)
{
    for (; *methods != NULL; methods++)
        if (strlen((*methods)->name) == len && memcmp((*methods)->name, name, len) == 0)
            return *methods;
    return NULL;
}

bool
ia3_name_ends_with(const char *s, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);

    return len >= n && memcmp(s + len - n, suffix, n) == 0;
}
