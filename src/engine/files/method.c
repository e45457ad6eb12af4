/*
 * method.c
 *     Finds a method by its name.
 */
#include "method.h"

#include <stdio.h>
#include <string.h>

const ia3_method *
ia3_method_find(const ia3_method *const *methods, const char *name, size_t len)
{
    for (; *methods != NULL; methods++)
        if (strlen((*methods)->name) == len && memcmp((*methods)->name, name, len) == 0)
            return *methods;
    return NULL;
}

void
ia3_list_name(char *list, size_t size, const char *name, int i, int n)
{
    size_t len = strlen(list);

    snprintf(list + len, size - len, "%s\"%s\"", i == 0 ? "" : i + 1 == n ? " and " : ", ", name);
}

const ia3_method *
ia3_method_require(const ia3_method *const *methods, const char *name, size_t len, ia3_error *err)
{
    const ia3_method *found = ia3_method_find(methods, name, len);
    char names[256] = "";
    int n = 0;

    if (found)
        return found;
    while (methods[n])
        n++;
    for (int i = 0; i < n; i++)
        ia3_list_name(names, sizeof names, methods[i]->name, i, n);
    ia3_fail(err, IA3_E_INVALID, "unknown method \"%.*s\"", len < 64 ? (int) len : 64, name);
    ia3_fail_hint(err, "Valid values are %s.", names);
    return NULL;
}

bool
ia3_name_ends_with(const char *s, size_t len, const char *suffix)
{
    size_t n = strlen(suffix);

    return len >= n && memcmp(s + len - n, suffix, n) == 0;
}
