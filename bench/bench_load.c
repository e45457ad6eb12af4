/*
 * bench_load.c
 *     Measures how fast a backbone is loaded, from files that are in the page cache, and how much memory that takes at most:
 *
 *   bench_load --work DIR [--shape NAME] [--file DTYPE] [--format FORMAT] [--dtype DTYPE] [--threads N] [--runs N]
 *   bench_load --backbone DIR [--dtype DTYPE] [--threads N] [--runs N]
 *
 * The first form writes random weights of a shape (small, base, large) to DIR, stored as bfloat16, float32 or float64 in a
 * file of safetensors or, with --format bin, of PyTorch (bin-transposed: with matrices that are stored column by column), unless
 * they are there. Each load is a process of its own that does what
 * the engine does before it is ready: it opens the checkpoint and the tokenizer, packs the weights, and computes the digest.
 *
 * A row shows the fastest of the runs: bytes of file per second, processor time, and the largest resident anonymous memory. Its
 * goals are 2 GB/s and 1.15 times the weights' memory plus 200 MB. `of limit` compares with the time that the parts take
 * alone on as many threads, measured in the same run: hashing the file with OpenSSL, reading it through a mapping, and touching as much
 * memory as the weights take for the first time.
 */
#include <fcntl.h>
#include <getopt.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "bench_common.h"
#include "bench_files.h"
#include "bench_memory.h"
#include "engine/base/log.h"
#include "engine/serve/serve.h"

#define GOAL_RATE   2e9
#define MAX_THREADS 64

typedef struct arguments {
    const char *work, *backbone, *tokenizer;
    const char *shape, *file, *format, *dtype;
    int threads, runs;
} arguments;

/* What one process reports. */
typedef struct result {
    bool ok;
    double wall, user, sys;
    size_t anonymous; /* the largest resident anonymous memory in bytes */
    size_t weights;   /* memory of the device when all is loaded */
    uint8_t digest[IA3_DIGEST_LEN];
} result;

static double
seconds(struct timeval t)
{
    return (double) t.tv_sec + 1e-6 * (double) t.tv_usec;
}

static result
load(const arguments *a, const char *directory)
{
    result r = {0};
    ia3_error err = {0};
    char threads[16];
    snprintf(threads, sizeof threads, "%d", a->threads);
    char *argv[] = {"bench_load", "info",
                    "--backbone", (char *) directory,
                    "--dtype",    (char *) a->dtype,
                    "--threads",  threads,
                    "--device",   "cpu",
                    NULL};
    ia3_options options;
    optind = 1; /* main() has used getopt, too */
    if (ia3_options_parse(&options, 10, argv) >= 0)
        return r;
    ia3_server server = {.options = &options};
    bench_sampler s;
    if (!bench_sampler_start(&s))
        return r;
    struct rusage before, after;
    getrusage(RUSAGE_SELF, &before);
    double start = bench_now();
    r.ok = ia3_server_load(&server, NULL, &err);
    r.wall = bench_now() - start;
    getrusage(RUSAGE_SELF, &after);
    r.user = seconds(after.ru_utime) - seconds(before.ru_utime);
    r.sys = seconds(after.ru_stime) - seconds(before.ru_stime);
    r.anonymous = bench_sampler_stop(&s);
    if (!r.ok)
        fprintf(stderr, "%s\n", err.message);
    else
        r.weights = server.device->ops->memory_used(server.device);
    memcpy(r.digest, server.digest, sizeof r.digest);
    return r;
}

/*
 * Touches memory and frees it again. The host of a virtual machine may have taken back memory that was free for a while (free page
 * reporting), and giving it again takes seconds per gigabyte, which have nothing to do with loading.
 */
static void
warm_memory(size_t bytes)
{
    uint8_t *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return;
    (void) madvise(p, bytes, MADV_HUGEPAGE);
    for (size_t i = 0; i < bytes; i += 4096)
        p[i] = 1;
    munmap(p, bytes);
}

/* Loads in a process of its own, so that every run starts with fresh memory. */
static result
load_apart(const arguments *a, const char *directory)
{
    result r = {0};
    int fds[2];
    if (pipe(fds) != 0)
        return r;
    pid_t pid = fork();
    if (pid == 0) {
        r = load(a, directory);
        _exit(write(fds[1], &r, sizeof r) == (ssize_t) sizeof r ? 0 : 1);
    }
    close(fds[1]);
    if (read(fds[0], &r, sizeof r) != (ssize_t) sizeof r)
        r.ok = false;
    close(fds[0]);
    waitpid(pid, NULL, 0);
    return r;
}

/* --- the limit --- */

typedef struct part {
    const uint8_t *data;
    size_t len;
    uint64_t sum;
} part;

static void *
hash_part(void *arg)
{
    part *p = arg;
    uint8_t digest[EVP_MAX_MD_SIZE];
    EVP_Digest(p->data, p->len, digest, NULL, EVP_sha256(), NULL);
    p->sum = digest[0];
    return NULL;
}

static void *
read_part(void *arg)
{
    part *p = arg;
    (void) madvise((void *) p->data, p->len, MADV_POPULATE_READ);
    for (size_t i = 0; i + 64 <= p->len; i += 64)
        p->sum += p->data[i];
    return NULL;
}

static void *
touch_part(void *arg)
{
    part *p = arg;
    memset((void *) p->data, 1, p->len);
    return NULL;
}

/* Seconds for which `fn` works on `len` bytes, divided among the threads. */
static double
time_parts(void *(*fn)(void *), uint8_t *data, size_t len, int threads)
{
    pthread_t ids[MAX_THREADS];
    part parts[MAX_THREADS];
    size_t each = len / (size_t) threads / 4096 * 4096;
    double start = bench_now();
    for (int i = 0; i < threads; i++) {
        parts[i] = (part){data + (size_t) i * each, each, 0};
        if (pthread_create(&ids[i], NULL, fn, &parts[i]) != 0)
            exit(1);
    }
    for (int i = 0; i < threads; i++)
        pthread_join(ids[i], NULL);
    return bench_now() - start;
}

/* The time that hashing and reading the files and touching the weights' memory takes. Files are hashed in part. */
static double
limit(const char *path, size_t weights, int threads)
{
    struct stat st;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) != 0)
        return 0;
    size_t len = (size_t) st.st_size, some = len < ((size_t) 256 << 20) ? len : (size_t) 256 << 20;
    uint8_t *file = mmap(NULL, len, PROT_READ, MAP_PRIVATE, fd, 0);
    close(fd);
    double reading = time_parts(read_part, file, len, threads);
    double hashing = time_parts(hash_part, file, some, threads) * ((double) len / (double) some);
    munmap(file, len);
    uint8_t *memory = NULL;
    if (posix_memalign((void **) &memory, (size_t) 2 << 20, weights) != 0)
        return 0;
    (void) madvise(memory, weights, MADV_HUGEPAGE);
    double touching = time_parts(touch_part, memory, weights, threads);
    free(memory);
    return reading + hashing + touching;
}

static bool
measure(const arguments *a, const char *directory, const char *file)
{
    char *path = ia3_join_path(directory, file);
    struct stat st;
    if (stat(path, &st) != 0) {
        perror(path);
        free(path);
        return false;
    }
    double bytes = (double) st.st_size;
    result best = load_apart(a, directory); /* brings the file into the page cache */
    for (int i = best.ok ? 0 : a->runs; i < a->runs; i++) {
        warm_memory(best.weights + best.weights / 8);
        result r = load_apart(a, directory);
        size_t most = r.anonymous > best.anonymous ? r.anonymous : best.anonymous;
        best = i == 0 || r.wall < best.wall ? r : best;
        best.anonymous = most;
    }
    if (!best.ok) {
        free(path);
        return false;
    }
    warm_memory(best.weights + best.weights / 8);
    double bound = 1.15 * (double) best.weights + 200e6, least = limit(path, best.weights, a->threads);
    free(path);
    bool good = bytes / best.wall >= GOAL_RATE && (double) best.anonymous <= bound;
    printf("%-18s %-9s %-9s %6.2f %6.2f %6.2f %6.2f %6.2f %8.0f %8.0f %8.0f%% %s\n", file, a->file, a->dtype,
           1e-9 * bytes, best.wall, 1e-9 * bytes / best.wall, best.user, best.sys,
           1e-6 * (double) best.anonymous, 1e-6 * bound, 100 * least / best.wall, good ? "ok" : "short");
    fflush(stdout);
    return true;
}

static void
ignore(ia3_log_level level, const char *text, void *arg)
{
    (void) level;
    (void) text;
    (void) arg;
}

static int
usage(FILE *to)
{
    fprintf(to,
            "usage: bench_load --work DIR|--backbone DIR [--shape small|base|large] "
            "[--file bfloat16|float32|float64]\n"
            "       [--format safetensors|bin|bin-transposed] [--dtype DTYPE] [--threads N] [--runs N]\n");
    return 2;
}

static bool
parse(arguments *a, int argc, char **argv)
{
    static const struct option options[] = {
        {"work", required_argument, NULL, 'w'},      {"backbone", required_argument, NULL, 'b'},
        {"shape", required_argument, NULL, 's'},     {"file", required_argument, NULL, 'f'},
        {"format", required_argument, NULL, 'o'},    {"dtype", required_argument, NULL, 'd'},
        {"tokenizer", required_argument, NULL, 'k'}, {"threads", required_argument, NULL, 't'},
        {"runs", required_argument, NULL, 'r'},      {0}};
    int c;
    while ((c = getopt_long(argc, argv, "", options, NULL)) != -1) {
        switch (c) {
        case 'w':
            a->work = optarg;
            break;
        case 'b':
            a->backbone = optarg;
            break;
        case 's':
            a->shape = optarg;
            break;
        case 'f':
            a->file = optarg;
            break;
        case 'o':
            a->format = optarg;
            break;
        case 'd':
            a->dtype = optarg;
            break;
        case 'k':
            a->tokenizer = optarg;
            break;
        case 't':
            a->threads = atoi(optarg);
            break;
        case 'r':
            a->runs = atoi(optarg);
            break;
        default:
            return false;
        }
    }
    return optind == argc && (a->work || a->backbone) && a->threads > 0 && a->threads <= MAX_THREADS &&
           a->runs > 0;
}

int
main(int argc, char **argv)
{
    arguments a = {.shape = "large",
                   .file = "bfloat16",
                   .format = "safetensors",
                   .dtype = "float32",
                   .tokenizer = "test/backbone/spiece.model",
                   .threads = (int) sysconf(_SC_NPROCESSORS_ONLN),
                   .runs = 3};
    if (argc == 2 && strcmp(argv[1], "--help") == 0)
        return usage(stdout), 0;
    if (!parse(&a, argc, argv))
        return usage(stderr);
    ia3_log_divert(ignore, NULL);
    char directory[4096];
    if (a.backbone)
        snprintf(directory, sizeof directory, "%s", a.backbone);
    else if (!bench_files_make(a.work, a.shape, a.file, a.format, a.tokenizer, directory, sizeof directory))
        return 1;
    const char *file = strncmp(a.format, "bin", 3) == 0 ? "pytorch_model.bin" : "model.safetensors";
    printf("%-18s %-9s %-9s %6s %6s %6s %6s %6s %8s %8s %9s\n", "weights", "stored", "dtype", "GB", "s",
           "GB/s", "user s", "sys s", "MB", "goal MB", "of limit");
    return measure(&a, directory, file) ? 0 : 1;
}
