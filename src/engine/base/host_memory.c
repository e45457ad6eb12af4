/*
 * host_memory.c
 *     Reads /proc/meminfo and the limits of control groups.
 *
 * /proc/self/cgroup names this process's group in each hierarchy, /proc/self/mountinfo says where the hierarchies are
 * mounted. In a container the mount may show only a part of a hierarchy, whose root mountinfo names, too.
 */
#include "host_memory.h"

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A hierarchy of control groups with limits of memory. */
typedef struct hierarchy {
    const char *file;       /* of each group, with its limit */
    char group[PATH_MAX];   /* ours, from /proc/self/cgroup; empty: there is no such hierarchy */
    char mount[PATH_MAX];   /* where it is mounted; empty: it is not */
    char visible[PATH_MAX]; /* the group that is the root of the mount */
} hierarchy;

static FILE *
open_in(const char *root, const char *name)
{
    char path[PATH_MAX];
    return (size_t) snprintf(path, sizeof path, "%s%s", root, name) < sizeof path ? fopen(path, "re") : NULL;
}

static size_t
machine_memory(const char *root)
{
    char line[256];
    unsigned long long kb = 0;
    FILE *f = open_in(root, "/proc/meminfo");
    while (f && kb == 0 && fgets(line, sizeof line, f))
        if (sscanf(line, "MemTotal: %llu kB", &kb) != 1)
            kb = 0;
    if (f)
        fclose(f);
    return (size_t) kb * 1024;
}

static bool
has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *at = list; (at = strstr(at, word)) != NULL; at += n)
        if ((at == list || at[-1] == ',') && (at[n] == ',' || at[n] == '\0'))
            return true;
    return false;
}

static void
set(char path[PATH_MAX], const char *value)
{
    snprintf(path, PATH_MAX, "%s", value);
}

/* Lines are "NUMBER:CONTROLLERS:GROUP"; version 2 has no controllers there. */
static void
find_groups(const char *root, hierarchy *v1, hierarchy *v2)
{
    char line[PATH_MAX + 256];
    FILE *f = open_in(root, "/proc/self/cgroup");
    while (f && fgets(line, sizeof line, f)) {
        line[strcspn(line, "\n")] = '\0';
        char *controllers = strchr(line, ':'), *group = controllers ? strchr(controllers + 1, ':') : NULL;
        if (group == NULL)
            continue;
        *group++ = '\0';
        if (controllers[1] == '\0')
            set(v2->group, group);
        else if (has_word(controllers + 1, "memory"))
            set(v1->group, group);
    }
    if (f)
        fclose(f);
}

/* Lines are "ID PARENT DEVICE ROOT MOUNT OPTIONS [TAG ...] - TYPE SOURCE OPTIONS". */
static void
find_mounts(const char *root, hierarchy *v1, hierarchy *v2)
{
    char line[3 * PATH_MAX], visible[PATH_MAX], mount[PATH_MAX];
    FILE *f = open_in(root, "/proc/self/mountinfo");
    while (f && fgets(line, sizeof line, f)) {
        char type[32], options[1024];
        const char *end = strstr(line, " - ");
        if (end == NULL || sscanf(end, " - %31s %*s %1023s", type, options) != 2 ||
            sscanf(line, "%*s %*s %*s %4095s %4095s", visible, mount) != 2)
            continue;
        hierarchy *h = strcmp(type, "cgroup2") == 0                                 ? v2
                       : strcmp(type, "cgroup") == 0 && has_word(options, "memory") ? v1
                                                                                    : NULL;
        if (h == NULL)
            continue;
        set(h->mount, mount);
        set(h->visible, visible);
    }
    if (f)
        fclose(f);
}

/* The limit in a file of a group; SIZE_MAX if there is none ("max", or no such file). */
static size_t
read_limit(const char *root, const hierarchy *h, const char *group)
{
    char path[3 * PATH_MAX], line[64] = "";
    snprintf(path, sizeof path, "%s%s/%s", h->mount, group, h->file);
    FILE *f = open_in(root, path);
    char *got = f ? fgets(line, sizeof line, f) : NULL;
    if (f)
        fclose(f);
    if (got == NULL || line[0] < '0' || line[0] > '9')
        return SIZE_MAX;
    return (size_t) strtoull(line, NULL, 10);
}

/* The smallest limit of our group and all groups above it that the mount shows. */
static size_t
group_limit(const char *root, const hierarchy *h)
{
    if (h->mount[0] == '\0' || h->group[0] == '\0')
        return SIZE_MAX;
    char group[PATH_MAX];
    size_t n = strcmp(h->visible, "/") == 0 ? 0 : strlen(h->visible);
    bool inside = strncmp(h->group, h->visible, n) == 0 && (h->group[n] == '/' || h->group[n] == '\0');
    set(group, inside ? h->group + n : "");
    size_t least = read_limit(root, h, group);
    for (char *slash; (slash = strrchr(group, '/')) != NULL;) {
        *slash = '\0';
        size_t limit = read_limit(root, h, group);
        least = limit < least ? limit : least;
    }
    return least;
}

size_t
ia3_host_memory(const char *root)
{
    hierarchy v1 = {.file = "memory.limit_in_bytes"}, v2 = {.file = "memory.max"};
    find_groups(root, &v1, &v2);
    find_mounts(root, &v1, &v2);
    size_t memory = machine_memory(root), one = group_limit(root, &v1), two = group_limit(root, &v2);
    size_t limit = one < two ? one : two;
    if (memory == 0)
        return limit == SIZE_MAX ? 0 : limit;
    return limit < memory ? limit : memory;
}
