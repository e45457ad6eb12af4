/*
 * engine_process.c
 *     Starts, watches and ends one ia3_engine process. Runs in the supervisor, and in backends for ia3_check_backbone.
 *
 * Between fork and exec the child is a copy of a PostgreSQL process attached to shared memory: it may call
 * only async-signal-safe functions, so everything it needs is prepared before the fork. It gets default
 * signal handling, a process group of its own (a Ctrl-C in the server's terminal is not for it), and no
 * descriptors but /dev/null, the log pipe as stdout and stderr, the status pipe and the death pipe.
 */
#include "postgres.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "engine_process.h"
#include "extension/ia3_compat.h"

/* Where the child finds its pipes. */
#define CHILD_STATUS_FD  3
#define CHILD_DEATH_FD   4
#define CHILD_FIRST_FREE 5

/* A bound for closing descriptors one by one, where close_range() is missing. */
#define MAX_DESCRIPTORS 65536

/* One read; a flood of log lines must not keep the supervisor from its other duties. */
#define READ_SIZE 4096

#define MAX_ARGUMENTS 32

void
Ia3ProcessInit(Ia3Process *process)
{
    memset(process, 0, sizeof *process);
    process->deathFd = process->status.fd = process->log.fd = -1;
}

static void
close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void
Ia3ProcessClosePipes(Ia3Process *process)
{
    close_fd(&process->deathFd);
    close_fd(&process->status.fd);
    close_fd(&process->log.fd);
}

typedef struct Launch {
    char executable[MAXPGPATH];
    char *arguments[MAX_ARGUMENTS];
    int nArguments;
    char execFailed[MAXPGPATH + 64]; /* status line of a child that cannot exec */
    int statusPipe[2];
    int logPipe[2];
    int deathPipe[2];
    int devNull;
    int maxDescriptors;
} Launch;

static void
add_argument(Launch *launch, const char *option, const char *value)
{
    Assert(launch->nArguments + 3 <= MAX_ARGUMENTS);
    launch->arguments[launch->nArguments++] = pstrdup(option);
    if (value != NULL)
        launch->arguments[launch->nArguments++] = pstrdup(value);
}

static void
add_number(Launch *launch, const char *option, int64 value)
{
    add_argument(launch, option, psprintf(INT64_FORMAT, value));
}

static void
prepare_arguments(Launch *launch, const Ia3BackboneSpec *spec, const Ia3EngineSettings *settings,
                  const char *socketPath)
{
    char share[32];

    add_argument(launch, launch->executable, "serve");
    add_argument(launch, "--name", spec->name);
    add_argument(launch, "--backbone", spec->path);
    add_argument(launch, "--socket", socketPath);
    add_argument(launch, "--device", spec->device);
    add_argument(launch, "--dtype", spec->dtype);
    if (spec->sha256[0] != '\0')
        add_argument(launch, "--sha256", spec->sha256);
    add_number(launch, "--threads", settings->threads);
    add_number(launch, "--max-batch-tokens", settings->maxBatchTokens);
    add_number(launch, "--adapter-cache-size", (int64) settings->adapterCacheSize * 1024 * 1024);
    if (settings->memoryLimit > 0)
        add_number(launch, "--memory-limit", (int64) settings->memoryLimit * 1024 * 1024);
    else if (settings->memoryLimit < 0) {
        snprintf(share, sizeof share, "auto/%d", settings->memoryShare);
        add_argument(launch, "--memory-limit", share);
    }
    add_number(launch, "--status-fd", CHILD_STATUS_FD);
}

static void
prepare_check(Launch *launch, const char *path, const Ia3EngineSettings *settings)
{
    add_argument(launch, launch->executable, "check");
    add_argument(launch, "--backbone", path);
    add_number(launch, "--threads", settings->threads);
    if (settings->memoryLimit > 0)
        add_number(launch, "--memory-limit", (int64) settings->memoryLimit * 1024 * 1024);
    else if (settings->memoryLimit < 0)
        add_argument(launch, "--memory-limit", "auto");
}

static void
free_arguments(Launch *launch)
{
    for (int i = 0; i < launch->nArguments; i++)
        pfree(launch->arguments[i]);
}

static void
close_launch(Launch *launch)
{
    close_fd(&launch->statusPipe[0]);
    close_fd(&launch->statusPipe[1]);
    close_fd(&launch->logPipe[0]);
    close_fd(&launch->logPipe[1]);
    close_fd(&launch->deathPipe[0]);
    close_fd(&launch->deathPipe[1]);
    close_fd(&launch->devNull);
}

/* Opens all descriptors at numbers that the child's own do not overlap. Returns false with errno. */
static bool
open_pipe(int ends[2])
{
    int low[2];

    if (pipe2(low, O_CLOEXEC) != 0)
        return false;
    ends[0] = fcntl(low[0], F_DUPFD_CLOEXEC, CHILD_FIRST_FREE);
    ends[1] = fcntl(low[1], F_DUPFD_CLOEXEC, CHILD_FIRST_FREE);
    close(low[0]);
    close(low[1]);
    return ends[0] >= 0 && ends[1] >= 0;
}

static bool
open_launch(Launch *launch)
{
    int low;

    if (!open_pipe(launch->statusPipe) || !open_pipe(launch->logPipe) || !open_pipe(launch->deathPipe))
        return false;
    low = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (low < 0)
        return false;
    launch->devNull = fcntl(low, F_DUPFD_CLOEXEC, CHILD_FIRST_FREE);
    close(low);
    return launch->devNull >= 0 && fcntl(launch->statusPipe[0], F_SETFL, O_NONBLOCK) == 0 &&
           fcntl(launch->logPipe[0], F_SETFL, O_NONBLOCK) == 0 &&
           fcntl(launch->deathPipe[1], F_SETFL, O_NONBLOCK) == 0;
}

static void
close_inherited(int maxDescriptors)
{
#ifdef SYS_close_range
    if (syscall(SYS_close_range, CHILD_FIRST_FREE, ~0U, 0) == 0)
        return;
#endif
    for (int fd = CHILD_FIRST_FREE; fd < maxDescriptors; fd++)
        close(fd);
}

static void run_child(Launch *launch) pg_attribute_noreturn();

/* In the child, all signals blocked: becomes the engine. Async-signal-safe calls only. */
static void
run_child(Launch *launch)
{
    struct sigaction action = {.sa_handler = SIG_DFL};
    sigset_t none;

    setpgid(0, 0);
    for (int number = 1; number < NSIG; number++)
        sigaction(number, &action, NULL);
    dup2(launch->devNull, 0);
    dup2(launch->logPipe[1], 1);
    dup2(launch->logPipe[1], 2);
    dup2(launch->statusPipe[1], CHILD_STATUS_FD);
    dup2(launch->deathPipe[0], CHILD_DEATH_FD);
    close_inherited(launch->maxDescriptors);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execv(launch->executable, launch->arguments);
    if (write(CHILD_STATUS_FD, launch->execFailed, strlen(launch->execFailed)) < 0)
        _exit(2);
    _exit(1);
}

static pid_t
fork_child(Launch *launch)
{
    sigset_t all, before;
    struct rlimit limit;
    pid_t pid;
    int savedErrno;

    launch->maxDescriptors = MAX_DESCRIPTORS;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < MAX_DESCRIPTORS)
        launch->maxDescriptors = (int) limit.rlim_cur;
    sigfillset(&all);
    sigprocmask(SIG_SETMASK, &all, &before);
    pid = fork();
    if (pid == 0)
        run_child(launch);
    savedErrno = errno;
    sigprocmask(SIG_SETMASK, &before, NULL);
    errno = savedErrno;
    return pid;
}

static void
init_launch(Launch *launch)
{
    memset(launch, 0, sizeof *launch);
    launch->statusPipe[0] = launch->statusPipe[1] = launch->logPipe[0] = launch->logPipe[1] = -1;
    launch->deathPipe[0] = launch->deathPipe[1] = launch->devNull = -1;
    snprintf(launch->executable, sizeof launch->executable, "%s/ia3_engine", pkglib_path);
    snprintf(launch->execFailed, sizeof launch->execFailed, "failed could not execute \"%s\"\n",
             launch->executable);
}

/* Starts what `launch` describes, and frees what it has. */
static bool
start(Launch *launch, Ia3Process *process, char *error, size_t errorSize)
{
    pid_t pid = -1;

    Ia3ProcessInit(process);
    add_number(launch, "--death-fd", CHILD_DEATH_FD);
    launch->arguments[launch->nArguments] = NULL;
    if (access(launch->executable, X_OK) != 0)
        snprintf(error, errorSize, "could not execute \"%s\": %s", launch->executable, strerror(errno));
    else if (!open_launch(launch))
        snprintf(error, errorSize, "could not create the pipes to the engine: %s", strerror(errno));
    else if ((pid = fork_child(launch)) < 0)
        snprintf(error, errorSize, "could not fork: %s", strerror(errno));
    else {
        process->pid = pid;
        process->status.fd = launch->statusPipe[0];
        process->log.fd = launch->logPipe[0];
        process->deathFd = launch->deathPipe[1];
        launch->statusPipe[0] = launch->logPipe[0] = launch->deathPipe[1] = -1;
    }
    close_launch(launch);
    free_arguments(launch);
    return pid > 0;
}

bool
Ia3ProcessStart(Ia3Process *process, const Ia3BackboneSpec *spec, const Ia3EngineSettings *settings,
                const char *socketPath, char *error, size_t errorSize)
{
    Launch launch;

    init_launch(&launch);
    prepare_arguments(&launch, spec, settings, socketPath);
    return start(&launch, process, error, errorSize);
}

bool
Ia3ProcessStartCheck(Ia3Process *process, const char *path, const Ia3EngineSettings *settings, char *error,
                     size_t errorSize)
{
    Launch launch;

    init_launch(&launch);
    prepare_check(&launch, path, settings);
    return start(&launch, process, error, errorSize);
}

bool
Ia3ProcessReap(Ia3Process *process, char *how, size_t howSize)
{
    int status;
    pid_t pid;

    if (process->pid == 0)
        return false;
    do
        pid = waitpid(process->pid, &status, WNOHANG);
    while (pid < 0 && errno == EINTR);
    if (pid == 0)
        return false;
    if (pid < 0)
        strlcpy(how, "disappeared", howSize);
    else if (WIFSIGNALED(status))
        snprintf(how, howSize, "was terminated by signal %d: %s", WTERMSIG(status),
                 pg_strsignal(WTERMSIG(status)));
    else
        snprintf(how, howSize, "exited with status %d", WEXITSTATUS(status));
    process->pid = 0;
    return true;
}

void
Ia3ProcessSignal(Ia3Process *process, int signal)
{
    if (process->pid != 0)
        kill(process->pid, signal);
}

void
Ia3ProcessAsk(Ia3Process *process)
{
    /* an engine that does not read has been asked often enough when the pipe is full */
    if (process->deathFd >= 0 && write(process->deathFd, "?", 1) < 0)
        return;
}

static void
take_byte(Ia3LineReader *reader, char byte, void (*handle)(void *arg, char *line), void *arg)
{
    if (byte != '\n') {
        if (reader->len < IA3_LINE_MAX)
            reader->line[reader->len++] = byte;
        return;
    }
    reader->line[reader->len] = '\0';
    reader->len = 0;
    handle(arg, reader->line);
}

void
Ia3ReadLines(Ia3LineReader *reader, void (*handle)(void *arg, char *line), void *arg)
{
    char bytes[READ_SIZE];
    ssize_t n;

    if (reader->fd < 0)
        return;
    n = read(reader->fd, bytes, sizeof bytes);
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR))
        return;
    for (ssize_t i = 0; i < n; i++)
        take_byte(reader, bytes[i], handle, arg);
    if (n <= 0) {
        if (reader->len > 0)
            take_byte(reader, '\n', handle, arg);
        close_fd(&reader->fd);
    }
}
