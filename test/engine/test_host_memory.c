/*
 * test_host_memory.c
 *     The memory that a process may use: the machine's, and limits of control groups as different systems show them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "engine/base/host_memory.h"

#define MB ((size_t) 1 << 20)

/* The files of a machine with 16 GB: up to the first without a name. */
typedef struct machine {
    const char *what;
    size_t expected;
    struct {
        const char *path, *text;
    } files[8];
} machine;

#define V2_MOUNT "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
#define V1_MOUNTS                                                                                            \
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"                                             \
    "32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"                                    \
    "35 31 0:32 / /sys/fs/cgroup/memory rw master:9 - cgroup cgroup rw,memory\n"

static const machine machines[] = {
    {"no control groups", 16384 * MB, {{NULL, NULL}}},
    {"version 2, without limits",
     16384 * MB,
     {{"proc/self/cgroup", "0::/system.slice/postgresql.service\n"},
      {"proc/self/mountinfo", V2_MOUNT},
      {"sys/fs/cgroup/system.slice/postgresql.service/memory.max", "max\n"},
      {"sys/fs/cgroup/system.slice/memory.max", "max\n"}}},
    {"version 2, a limit of our own group",
     2048 * MB,
     {{"proc/self/cgroup", "0::/system.slice/postgresql.service\n"},
      {"proc/self/mountinfo", V2_MOUNT},
      {"sys/fs/cgroup/system.slice/postgresql.service/memory.max", "2147483648\n"},
      {"sys/fs/cgroup/system.slice/memory.max", "4294967296\n"}}},
    {"version 2, a smaller limit above",
     1024 * MB,
     {{"proc/self/cgroup", "0::/a/b/c\n"},
      {"proc/self/mountinfo", V2_MOUNT},
      {"sys/fs/cgroup/a/b/c/memory.max", "max\n"},
      {"sys/fs/cgroup/a/b/memory.max", "2147483648\n"},
      {"sys/fs/cgroup/a/memory.max", "1073741824\n"}}},
    {"version 2 in a container with a namespace of its own",
     512 * MB,
     {{"proc/self/cgroup", "0::/\n"},
      {"proc/self/mountinfo", V2_MOUNT},
      {"sys/fs/cgroup/memory.max", "536870912\n"}}},
    {"version 2, a limit above the machine's memory",
     16384 * MB,
     {{"proc/self/cgroup", "0::/a\n"},
      {"proc/self/mountinfo", V2_MOUNT},
      {"sys/fs/cgroup/a/memory.max", "1099511627776\n"}}},
    {"version 1",
     2048 * MB,
     {{"proc/self/cgroup", "5:cpu,cpuacct:/x\n4:memory:/lxc/one\n0::/x\n"},
      {"proc/self/mountinfo", V1_MOUNTS},
      {"sys/fs/cgroup/memory/lxc/one/memory.limit_in_bytes", "2147483648\n"},
      {"sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"}}},
    {"version 1, a smaller limit above",
     1024 * MB,
     {{"proc/self/cgroup", "4:memory:/lxc/one\n"},
      {"proc/self/mountinfo", V1_MOUNTS},
      {"sys/fs/cgroup/memory/lxc/one/memory.limit_in_bytes", "9223372036854771712\n"},
      {"sys/fs/cgroup/memory/lxc/memory.limit_in_bytes", "1073741824\n"}}},
    {"version 1 in a container that sees the names of the host",
     256 * MB,
     {{"proc/self/cgroup", "4:memory:/docker/0123abcd\n"},
      {"proc/self/mountinfo",
       "35 31 0:32 /docker/0123abcd /sys/fs/cgroup/memory ro,nosuid master:9 - cgroup cgroup rw,memory\n"},
      {"sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"}}},
    {"version 1, a child of the group that the container sees",
     128 * MB,
     {{"proc/self/cgroup", "4:memory:/docker/0123abcd/db\n"},
      {"proc/self/mountinfo",
       "35 31 0:32 /docker/0123abcd /sys/fs/cgroup/memory ro,nosuid master:9 - cgroup cgroup rw,memory\n"},
      {"sys/fs/cgroup/memory/db/memory.limit_in_bytes", "134217728\n"},
      {"sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"}}},
    {"a group that the mount does not show",
     256 * MB,
     {{"proc/self/cgroup", "4:memory:/elsewhere/x\n"},
      {"proc/self/mountinfo", V1_MOUNTS},
      {"sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n"}}},
    {"both versions at once",
     512 * MB,
     {{"proc/self/cgroup", "4:memory:/a\n0::/b\n"},
      {"proc/self/mountinfo", V1_MOUNTS "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"},
      {"sys/fs/cgroup/memory/a/memory.limit_in_bytes", "1073741824\n"},
      {"sys/fs/cgroup/unified/b/memory.max", "536870912\n"}}},
    {"files that make no sense",
     16384 * MB,
     {{"proc/self/cgroup", "memory\n4:memory\n:\n::\n4:inmemory:/a\n0::/a\n"},
      {"proc/self/mountinfo", "35\n35 31 0:32 - \n - cgroup2 cgroup2 rw\n" V2_MOUNT},
      {"sys/fs/cgroup/a/memory.max", "-1\n"},
      {"sys/fs/cgroup/memory.max", ""}}},
};

static void
write_file(const char *root, const char *name, const char *text)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/%s", root, name);
    for (char *slash = path + strlen(root) + 1; (slash = strchr(slash, '/')) != NULL; slash++) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void
remove_tree(const char *root)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    assert_int_equal(system(command), 0);
}

static void
test_machines(void **state)
{
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++) {
        const machine *m = &machines[i];
        char root[] = "/tmp/ia3_test_XXXXXX";
        assert_non_null(mkdtemp(root));
        write_file(root, "proc/meminfo", "MemTotal:       16777216 kB\nMemFree:        1 kB\n");
        for (int k = 0; k < 8 && m->files[k].path; k++)
            write_file(root, m->files[k].path, m->files[k].text);
        size_t got = ia3_host_memory(root);
        if (got != m->expected)
            fail_msg("%s: %zu MB, expected %zu MB", m->what, got / MB, m->expected / MB);
        remove_tree(root);
    }
}

/* Without any of these files nothing is known; of this machine, something. */
static void
test_real_machine(void **state)
{
    char root[] = "/tmp/ia3_test_XXXXXX";
    assert_non_null(mkdtemp(root));
    assert_int_equal(ia3_host_memory(root), 0);
    remove_tree(root);
    assert_true(ia3_host_memory("") > 64 * MB);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_machines),
        cmocka_unit_test(test_real_machine),
    };
    return cmocka_run_group_tests_name("host_memory", tests, NULL, NULL);
}
