/*
 * log.c
 *     Formats a log line and writes it with a single write().
 */
#include "log.h"

#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <unistd.h>

static void (*divert)(ia3_log_level level, const char *text, void *arg);
static void *divert_arg;

void
ia3_log_divert(void (*sink)(ia3_log_level level, const char *text, void *arg), void *arg)
{
    divert = sink;
    divert_arg = arg;
}

void
ia3_log(ia3_log_level level, const char *format, ...)
{
    static const char *const names[] = {"DEBUG", "LOG", "WARNING", "ERROR"};
    char line[2048];
    int head = snprintf(line, sizeof line, "%s: ", names[level]);
    va_list args;
    va_start(args, format);
    int n = vsnprintf(line + head, sizeof line - (size_t) head - 1, format, args);
    va_end(args);
    if (n < 0)
        return;
    size_t len = (size_t) head + (size_t) n;
    if (len > sizeof line - 2)
        len = sizeof line - 2;
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    if (divert != NULL) {
        line[len] = '\0';
        divert(level, line + head, divert_arg);
        return;
    }
    line[len++] = '\n';

    /* A supervisor that does not read must not block the engine. A pipe that polls as writable takes a whole line. */
    struct pollfd p = {.fd = STDERR_FILENO, .events = POLLOUT};
    if (poll(&p, 1, 0) == 1 && (p.revents & POLLOUT)) {
        ssize_t ignored = write(STDERR_FILENO, line, len);
        (void) ignored;
    }
}
