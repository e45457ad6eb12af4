/*
 * error.c
 *     Formats error texts and makes them safe to display.
 */
#include "error.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "utf8.h"

/*
 * Texts quote names and paths from untrusted files, truncated to what fits. They end up in PostgreSQL messages and in
 * lines of the status pipe, so they must be valid UTF-8 without control characters.
 */
static void
sanitize(char *text)
{
    size_t len = strlen(text);

    for (size_t i = 0; i < len;) {
        size_t n = ia3_utf8_length((const uint8_t *) text + i, len - i);

        if (n == 0 || (n == 1 && ((unsigned char) text[i] < 0x20 || text[i] == 0x7f))) {
            text[i] = '?';
            n = 1;
        }
        i += n;
    }
}

bool
ia3_fail(ia3_error *err, Ia3ErrorCode code, const char *format, ...)
{
    if (err == NULL || err->code != 0)
        return false; /* the first error is the cause; later ones are consequences of it */

    va_list args;

    va_start(args, format);
    vsnprintf(err->message, sizeof err->message, format, args);
    va_end(args);
    sanitize(err->message);
    err->detail[0] = '\0';
    err->hint[0] = '\0';
    err->code = code;
    return false;
}

bool
ia3_fail_detail(ia3_error *err, const char *format, ...)
{
    if (err == NULL || err->detail[0] != '\0')
        return false;

    va_list args;

    va_start(args, format);
    vsnprintf(err->detail, sizeof err->detail, format, args);
    va_end(args);
    sanitize(err->detail);
    return false;
}

bool
ia3_fail_hint(ia3_error *err, const char *format, ...)
{
    if (err == NULL || err->hint[0] != '\0')
        return false;

    va_list args;

    va_start(args, format);
    vsnprintf(err->hint, sizeof err->hint, format, args);
    va_end(args);
    sanitize(err->hint);
    return false;
}

void
ia3_error_join(const ia3_error *err, char *buffer, size_t size)
{
    snprintf(buffer, size, "%s%s%s%s%s%s", err->message, err->detail[0] ? ": " : "", err->detail,
             err->hint[0] ? " (" : "", err->hint, err->hint[0] ? ")" : "");
    for (char *p = buffer; *p; p++)
        if (*p == '\n' || *p == '\r')
            *p = ' ';
}
