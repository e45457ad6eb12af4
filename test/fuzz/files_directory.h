/*
 * files_directory.h
 *     A directory of this process, in memory where possible, for fuzz targets of what reads files by name.
 */
#ifndef FILES_DIRECTORY_H
#define FILES_DIRECTORY_H

#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char files_directory[64];
static char files_names[8][64];

static inline const char *
files_path(const char *name)
{
    static char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", files_directory, name);
    return path;
}

static inline void
files_remove(const char *name)
{
    unlink(files_path(name));
}

/* At exit; after a crash the directory remains. */
static void
files_remove_all(void)
{
    for (int i = 0; i < 8 && files_names[i][0] != '\0'; i++)
        files_remove(files_names[i]);
    rmdir(files_directory);
}

static inline void
files_write(const char *name, const uint8_t *data, size_t len)
{
    if (files_directory[0] == '\0') {
        strcpy(files_directory,
               access("/dev/shm", W_OK) == 0 ? "/dev/shm/ia3-fuzz-XXXXXX" : "/tmp/ia3-fuzz-XXXXXX");
        if (mkdtemp(files_directory) == NULL)
            abort();
        atexit(files_remove_all);
    }
    int slot = 0, fd = open(files_path(name), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, data, len) != (ssize_t) len)
        abort();
    close(fd);
    while (files_names[slot][0] != '\0' && strcmp(files_names[slot], name) != 0)
        slot++;
    strcpy(files_names[slot], name);
}

#endif
