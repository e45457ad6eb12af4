/*
 * mapped_file.c
 *     Maps files, and survives their truncation.
 *
 * The handler of SIGBUS looks the address up in a table of mappings, puts a page of zeros there, and returns to the
 * instruction that failed. Any other SIGBUS is passed on to the handler before it, or ends the process as usual.
 *
 * Locking: an entry of the table is claimed and freed by its mapping's owner with atomic operations; the handler, which runs
 * on the thread that reads a mapping and so before that is unmapped, only reads `begin` and `len`, and sets `lost`.
 */
#include "mapped_file.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "read_file.h"

#define MAX_MAPPED 4096

typedef struct mapping {
    atomic_uintptr_t begin; /* 0: the entry is free */
    size_t len;             /* whole pages */
    atomic_bool lost;       /* a page was not there */
} mapping;

static mapping mappings[MAX_MAPPED];
static struct sigaction before;
static uintptr_t page;

static void
pass_on(int sig, siginfo_t *info, void *context)
{
    if (before.sa_flags & SA_SIGINFO)
        before.sa_sigaction(sig, info, context);
    else if (before.sa_handler != SIG_DFL && before.sa_handler != SIG_IGN)
        before.sa_handler(sig);
    else
        sigaction(sig, &(struct sigaction){.sa_handler = SIG_DFL},
                  NULL); /* and the instruction fails again */
}

static void
on_bus_error(int sig, siginfo_t *info, void *context)
{
    int saved = errno;
    uintptr_t at = (uintptr_t) info->si_addr;
    for (int i = 0; i < MAX_MAPPED; i++) {
        uintptr_t begin = atomic_load(&mappings[i].begin);
        if (begin == 0 || at < begin || at - begin >= mappings[i].len)
            continue;
        if (mmap((void *) (at / page * page), page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1,
                 0) == MAP_FAILED)
            break;
        atomic_store(&mappings[i].lost, true);
        errno = saved;
        return;
    }
    pass_on(sig, info, context);
    errno = saved;
}

/* Installs the handler, unless it is: others, such as a test's, may have been installed since. */
static void
install(void)
{
    struct sigaction current, action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO | SA_RESTART};
    page = (uintptr_t) sysconf(_SC_PAGESIZE);
    if (sigaction(SIGBUS, NULL, &current) == 0 && (current.sa_flags & SA_SIGINFO) &&
        current.sa_sigaction == on_bus_error)
        return;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &before);
}

/* Claims an entry; without one, which is only so with thousands of files, a truncated file ends the process. */
static int
claim(const void *data, size_t len)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    int slot = -1;
    pthread_mutex_lock(&lock);
    install();
    for (int i = 0; i < MAX_MAPPED && slot < 0; i++)
        if (atomic_load(&mappings[i].begin) == 0) {
            mappings[i].len = (len + page - 1) / page * page;
            atomic_store(&mappings[i].lost, false);
            atomic_store(&mappings[i].begin, (uintptr_t) data);
            slot = i;
        }
    pthread_mutex_unlock(&lock);
    return slot;
}

bool
ia3_mapped_open(ia3_mapped_file *f, const char *path, ia3_error *err)
{
    struct stat st;
    *f = (ia3_mapped_file){.slot = -1, .fd = -1};
    int fd = ia3_open_file(path, &f->len, err);
    if (fd < 0)
        return false;
    if (f->len > 0) {
        void *map = mmap(NULL, f->len, PROT_READ, MAP_PRIVATE, fd, 0);
        if (map == MAP_FAILED) {
            ia3_fail(err, IA3_E_BAD_CHECKPOINT, "could not map file \"%.300s\": %s", path, strerror(errno));
            close(fd);
            return false;
        }
        f->data = map;
        f->slot = claim(map, f->len);
    }
    f->fd = fd;
    if (fstat(fd, &st) == 0)
        f->modified = st.st_mtim;
    return true;
}

bool
ia3_mapped_unchanged(const ia3_mapped_file *f)
{
    struct stat st;
    if (f->slot >= 0 && atomic_load(&mappings[f->slot].lost))
        return false;
    return fstat(f->fd, &st) == 0 && (size_t) st.st_size == f->len &&
           st.st_mtim.tv_sec == f->modified.tv_sec && st.st_mtim.tv_nsec == f->modified.tv_nsec;
}

void
ia3_mapped_release(const ia3_mapped_file *f, const void *data, size_t len)
{
    const uint8_t *from = data;
    if (f->data == NULL || from < f->data || from >= f->data + f->len)
        return;
    size_t at = (size_t) (from - f->data), begin = (at + page - 1) / page * page,
           end = (at + len) / page * page;
    if (begin < end)
        madvise((void *) (f->data + begin), end - begin, MADV_DONTNEED);
}

void
ia3_mapped_close(ia3_mapped_file *f)
{
    if (f->slot >= 0) /* before the address can belong to another mapping */
        atomic_store(&mappings[f->slot].begin, 0);
    if (f->data)
        munmap((void *) f->data, f->len);
    if (f->fd >= 0)
        close(f->fd);
    *f = (ia3_mapped_file){.slot = -1, .fd = -1};
}
