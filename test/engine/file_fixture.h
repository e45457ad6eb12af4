/*
 * file_fixture.h
 *     Temporary directories, files and hand-made safetensors for tests of code that reads files.
 */
#ifndef IA3_FILE_FIXTURE_H
#define IA3_FILE_FIXTURE_H

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <setjmp.h>
#include <cmocka.h>

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/error.h"

typedef struct buffer {
    uint8_t *data;
    size_t len;
} buffer;

/* Copies data to an allocation of exactly this size, so that sanitizers detect reads beyond its end. */
static inline buffer
buffer_copy(const void *data, size_t len)
{
    buffer b = {malloc(len ? len : 1), len};

    assert_non_null(b.data);
    if (len > 0)
        memcpy(b.data, data, len);
    return b;
}

/* header length, header, data */
static inline buffer
make_safetensors(const char *header, size_t header_len, const void *data, size_t data_len)
{
    buffer b = {malloc(8 + header_len + data_len), 8 + header_len + data_len};

    assert_non_null(b.data);
    for (int i = 0; i < 8; i++)
        b.data[i] = (uint8_t) ((uint64_t) header_len >> (8 * i));
    memcpy(b.data + 8, header, header_len);
    if (data_len > 0)
        memcpy(b.data + 8 + header_len, data, data_len);
    return b;
}

static inline size_t
header_length(buffer b)
{
    size_t n = 0;

    for (int i = 0; i < 8; i++)
        n |= (size_t) b.data[i] << (8 * i);
    return n;
}

/* Returns the text with the first `from` replaced by `to`, malloc'd; `from` must occur in it. */
static inline char *
replace_text(const char *text, size_t len, const char *from, const char *to)
{
    char *copy = malloc(len + strlen(to) + 1);

    memcpy(copy, text, len);
    copy[len] = '\0';

    char *at = strstr(copy, from);

    assert_non_null(at);
    memmove(at + strlen(to), at + strlen(from), strlen(at + strlen(from)) + 1);
    memcpy(at, to, strlen(to));
    return copy;
}

/* Returns the safetensors with one replacement in the header. */
static inline buffer
edit_header(buffer b, const char *from, const char *to)
{
    size_t n = header_length(b);
    char *header = replace_text((const char *) b.data + 8, n, from, to);
    buffer out = make_safetensors(header, strlen(header), b.data + 8 + n, b.len - 8 - n);

    free(header);
    return out;
}

static inline buffer
read_whole(const char *path)
{
    FILE *f = fopen(path, "rb");
    buffer b = {NULL, 0};

    if (f == NULL)
        fail_msg("cannot open %s (tests run from the top of the source tree)", path);
    fseek(f, 0, SEEK_END);
    b.len = (size_t) ftell(f);
    rewind(f);
    b.data = malloc(b.len ? b.len : 1);
    assert_int_equal(fread(b.data, 1, b.len, f), b.len);
    fclose(f);
    return b;
}

static inline buffer
read_in(const char *directory, const char *file)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", directory, file);
    return read_whole(path);
}

static inline void
write_in(const char *directory, const char *file, const void *data, size_t len)
{
    char path[512];

    snprintf(path, sizeof path, "%s/%s", directory, file);

    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

static inline void
copy_in(const char *from, const char *to, const char *file)
{
    buffer b = read_in(from, file);

    write_in(to, file, b.data, b.len);
    free(b.data);
}

/* `path` receives the name. */
static inline char *
make_directory(char path[64])
{
    snprintf(path, 64, "/tmp/ia3-test-XXXXXX");
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void
remove_directory(const char *path)
{
    DIR *d = opendir(path);
    char file[512];

    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d)) != NULL;) {
        if (strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0)
            continue;
        snprintf(file, sizeof file, "%s/%s", path, e->d_name);
        remove(file);
    }
    closedir(d);
    rmdir(path);
}

/* The message of an error, without "<directory>/" at its beginning. */
static inline const char *
message_within(const ia3_error *err, const char *directory)
{
    size_t n = strlen(directory);

    return strncmp(err->message, directory, n) == 0 && err->message[n] == '/' ? err->message + n + 1
                                                                              : err->message;
}

#endif
