/*
 * scratch.c
 *     Temporary directories: creating, locking, publishing and removing them, including those that were left behind.
 */
#include "scratch.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/error.h"

#define SUFFIX   ".ia3-XXXXXX"
#define N_RANDOM 6 /* characters that mkdtemp() chooses */

/* Opens and locks a directory without following links or waiting; -1 if it is in use or not a directory of ours. */
static int
open_unused(int parent, const char *name)
{
    struct stat st;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);

    if (fd < 0)
        return -1;
    if (fstat(fd, &st) == 0 && st.st_uid == geteuid() && flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    close(fd);
    return -1;
}

/* Removes the files in a directory. We never create subdirectories, so these are left alone. */
static void
empty(int fd)
{
    int copy = dup(fd);
    DIR *dir = copy >= 0 ? fdopendir(copy) : NULL;

    if (dir == NULL && copy >= 0)
        close(copy);
    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;)
        unlinkat(fd, e->d_name, 0);
    if (dir != NULL)
        closedir(dir);
}

static bool
is_scratch_of(const char *name, const char *base, size_t n_base)
{
    size_t n_prefix = sizeof SUFFIX - 1 - N_RANDOM;

    return strncmp(name, base, n_base) == 0 && strncmp(name + n_base, SUFFIX, n_prefix) == 0 &&
           strlen(name + n_base + n_prefix) == N_RANDOM;
}

/* Removes the directories that killed processes left behind for this target. */
static void
remove_stale(const char *target)
{
    const char *base = strrchr(target, '/') + 1;
    char *parent = ia3_strdup(target);

    parent[base - target] = '\0';

    DIR *dir = opendir(parent);

    for (struct dirent *e; dir != NULL && (e = readdir(dir)) != NULL;) {
        int fd = is_scratch_of(e->d_name, base, strlen(base)) ? open_unused(dirfd(dir), e->d_name) : -1;

        if (fd < 0)
            continue;
        empty(fd);
        unlinkat(dirfd(dir), e->d_name, AT_REMOVEDIR);
        close(fd);
    }
    if (dir != NULL)
        closedir(dir);
    free(parent);
}

/*
 * Locks the directory that was just created. False with errno set: EBUSY if another process removed it before it was
 * locked, because it seemed to be left behind. If the directory cannot be opened, it is removed.
 */
static bool
lock(ia3_scratch *s)
{
    struct stat own, there;

    s->lock = open(s->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->lock < 0) {
        int error = errno == ENOENT ? EBUSY : errno;
        rmdir(s->path);
        errno = error;
        return false;
    }
    flock(s->lock,
          LOCK_EX); /* on a file system without locks nothing is ever removed, so failure is harmless */
    if (fstat(s->lock, &own) == 0 && stat(s->path, &there) == 0 && own.st_ino == there.st_ino)
        return true;
    close(s->lock);
    errno = EBUSY;
    return false;
}

bool
ia3_scratch_create(ia3_scratch *s, const char *target)
{
    size_t n = strlen(target) + sizeof SUFFIX;

    remove_stale(target);
    s->path = ia3_alloc(n);
    for (int tries = 0; tries < 10; tries++) {
        snprintf(s->path, n, "%s" SUFFIX, target);
        if (mkdtemp(s->path) == NULL)
            break;
        if (lock(s))
            return true;
        if (errno != EBUSY)
            break;
    }
    int error = errno;
    free(s->path);
    s->path = NULL;
    errno = error;
    return false;
}

static void
forget(ia3_scratch *s)
{
    close(s->lock);
    free(s->path);
    s->path = NULL;
}

bool
ia3_scratch_publish(ia3_scratch *s, const char *target)
{
    if (rename(s->path, target) != 0)
        return false;
    forget(s);
    return true;
}

void
ia3_scratch_remove(ia3_scratch *s)
{
    if (s->path == NULL)
        return;
    empty(s->lock);
    rmdir(s->path);
    forget(s);
}
