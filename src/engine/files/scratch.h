/*
 * scratch.h
 *     A temporary directory, TARGET.ia3-XXXXXX, whose finished contents are published by renaming it to TARGET.
 *
 * The directory is locked as long as it is being written. So one that a killed process left behind can be told from
 * one that is in use by this process or another.
 */
#ifndef IA3_SCRATCH_H
#define IA3_SCRATCH_H

#include <stdbool.h>

typedef struct ia3_scratch {
    char *path; /* NULL: there is none */
    int lock;   /* file descriptor of the directory, which holds the lock */
} ia3_scratch;

/*
 * Creates an empty directory that only this user can access, and removes those that killed processes left behind for
 * the same target. On failure it returns false with errno set, s->path NULL and nothing left behind; errno is EBUSY if
 * other processes repeatedly removed the directory before it was locked.
 */
bool ia3_scratch_create(ia3_scratch *s, const char *target);

/* Renames the directory to `target` and forgets it. On failure returns false with errno set and changes nothing. */
bool ia3_scratch_publish(ia3_scratch *s, const char *target);

/* Removes the directory, if there is one, and the files in it. */
void ia3_scratch_remove(ia3_scratch *s);

#endif
