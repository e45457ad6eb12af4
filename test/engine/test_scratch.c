/*
 * test_scratch.c
 *     Temporary directories: creating, publishing and removing them, and removing those that others left behind.
 */
#include "file_fixture.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "engine/files/scratch.h"

/* How many times another process will remove a new directory just before it is locked. */
static int taken;

/* Replaces the C library's function, because a new directory can be removed only at this moment. */
int
flock(int fd, int operation)
{
    if (operation == LOCK_EX && taken > 0) {
        char link[40], path[300];
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, path, sizeof path - 1);
        assert_true(n > 0);
        path[n] = '\0';
        assert_int_equal(rmdir(path), 0);
        taken--;
    }
    return (int) syscall(SYS_flock, fd, operation);
}

static char parent[64], target[80];

static int
make_parent(void **state)
{
    snprintf(parent, sizeof parent, "/tmp/ia3-test-scratch-XXXXXX");
    if (mkdtemp(parent) == NULL)
        return -1;
    snprintf(target, sizeof target, "%s/model", parent);
    return 0;
}

/* The test has removed what it made. */
static int
remove_parent(void **state)
{
    return rmdir(parent);
}

static int
entries(void)
{
    DIR *dir = opendir(parent);
    int n = -2; /* . and .. */

    assert_non_null(dir);
    while (readdir(dir) != NULL)
        n++;
    closedir(dir);
    return n;
}

static void
put_file(const char *directory, const char *name)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "w");

    assert_non_null(f);
    fclose(f);
}

static void
test_publish(void **state)
{
    ia3_scratch s;
    char path[200];

    assert_true(ia3_scratch_create(&s, target));
    put_file(s.path, "weights");
    assert_true(ia3_scratch_publish(&s, target));
    assert_null(s.path);
    ia3_scratch_remove(&s); /* nothing is left to be removed */
    snprintf(path, sizeof path, "%s/weights", target);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(rmdir(target), 0);
}

static void
test_remove(void **state)
{
    ia3_scratch s;

    assert_true(ia3_scratch_create(&s, target));
    put_file(s.path, "weights");
    ia3_scratch_remove(&s);
    assert_null(s.path);
    assert_int_equal(entries(), 0);
}

/* A directory that is in use stays; one that is not locked is removed when the next one is created. */
static void
test_stale(void **state)
{
    ia3_scratch used, next;
    char left[100];

    assert_true(ia3_scratch_create(&used, target));
    snprintf(left, sizeof left, "%s.ia3-abcdef", target);
    assert_int_equal(mkdir(left, 0700), 0);
    put_file(left, "weights");
    assert_true(ia3_scratch_create(&next, target));
    assert_int_equal(access(left, F_OK), -1);
    assert_int_equal(entries(), 2);
    ia3_scratch_remove(&used);
    ia3_scratch_remove(&next);
}

/* Without free file descriptors the directory cannot be locked and is removed. */
static void
test_no_descriptor(void **state)
{
    ia3_scratch s;
    struct rlimit old, none;
    int next_fd = open("/dev/null", O_RDONLY), error;

    assert_true(next_fd >= 0);
    close(next_fd);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &old), 0);
    none = old;
    none.rlim_cur = (rlim_t) next_fd;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    bool made = ia3_scratch_create(&s, target);
    error = errno;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &old), 0);
    assert_false(made);
    assert_int_equal(error, EMFILE);
    assert_null(s.path);
    assert_int_equal(entries(), 0);
}

static void
test_taken(void **state)
{
    ia3_scratch s;

    taken = 3;
    assert_true(ia3_scratch_create(&s, target));
    assert_int_equal(taken, 0);
    ia3_scratch_remove(&s);

    taken = 1000;
    errno = 0;
    assert_false(ia3_scratch_create(&s, target));
    assert_int_equal(errno, EBUSY);
    assert_true(taken > 0);
    assert_null(s.path);
    assert_int_equal(entries(), 0);
    taken = 0;
}

static void
test_no_parent(void **state)
{
    ia3_scratch s;
    char path[120];

    snprintf(path, sizeof path, "%s/missing/model", parent);
    assert_false(ia3_scratch_create(&s, path));
    assert_int_equal(errno, ENOENT);
    assert_null(s.path);
}

#define TEST(t) cmocka_unit_test_setup_teardown(t, make_parent, remove_parent)

int
main(void)
{
    static const struct CMUnitTest tests[] = {TEST(test_publish), TEST(test_remove),
                                              TEST(test_stale),   TEST(test_no_descriptor),
                                              TEST(test_taken),   TEST(test_no_parent)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
