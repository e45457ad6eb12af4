/*
 * read_file.c
 *     Opens and reads files of a checkpoint, with errors that name them.
 */
#include "read_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/alloc.h"

char *
ia3_join_path(const char *directory, const char *file)
{
    size_t n = strlen(directory) + strlen(file) + 2;
    char *path = ia3_alloc(n);

    snprintf(path, n, "%s/%s", directory, file);
    return path;
}

int
ia3_open_file(const char *path, size_t *size, ia3_error *err)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    struct stat st;

    if (fd < 0) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "could not open file \"%.300s\": %s", path, strerror(errno));
        return -1;
    }
    if (fstat(fd, &st) != 0)
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "could not examine file \"%.300s\": %s", path, strerror(errno));
    else if (!S_ISREG(st.st_mode))
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "\"%.300s\" is not a regular file", path);
    else {
        *size = (size_t) st.st_size;
        return fd;
    }
    close(fd);
    return -1;
}

char *
ia3_read_file(const char *path, size_t max, size_t *len, ia3_error *err)
{
    size_t size;
    int fd = ia3_open_file(path, &size, err);

    if (fd < 0)
        return NULL;
    if (size > max) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "%.300s: size of %zu bytes exceeds the limit of %zu", path, size,
                 max);
        close(fd);
        return NULL;
    }

    char *text = ia3_alloc(size + 1);
    ssize_t n = 0;

    for (*len = 0; *len < size; *len += (size_t) n) {
        do
            n = read(fd, text + *len, size - *len);
        while (n < 0 && errno == EINTR);
        if (n <= 0)
            break; /* an error, or the file became shorter, which the parser will notice */
    }
    if (n < 0) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "could not read file \"%.300s\": %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    close(fd);
    return text;
}
