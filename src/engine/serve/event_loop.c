/*
 * event_loop.c
 *     The I/O thread's event loop: epoll over the listening socket, the clients, signals, the death pipe and the
 *     compute thread's events. It never blocks, neither on a client that does not read nor on one that stops in the
 *     middle of a frame, and it tokenizes in slices.
 */
#include "event_loop.h"

#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/heartbeat.h"
#include "engine/base/log.h"

#define SCRATCH           ((size_t) 256 * 1024)
#define CHOICE_MEMORY     ((size_t) 16 << 20)
#define SPARE_FDS         64   /* file descriptors reserved for other purposes than clients */
#define BLOCK_SECONDS     10.0 /* how long an unfinished frame may keep others waiting for memory */
#define ACCEPT_SECONDS    1.0  /* after which another attempt is made to accept clients */
#define COMPLAINT_SECONDS 60.0 /* between complaints that this is not possible */
#define STATUS_TIMEOUT    5000 /* ms that "ready" or "failed" waits for a supervisor that does not read */

/* Sends a line to the supervisor. With `must` it waits until the pipe has room. */
static void
tell(ia3_io *io, bool must, const char *line)
{
    int fd = io->server->options->status_fd;
    char text[1001];
    int n = snprintf(text, sizeof text - 1, "%s", line);
    if (fd < 0 || n < 0)
        return;
    size_t len = (size_t) n < sizeof text - 2 ? (size_t) n : sizeof text - 2;
    text[len++] = '\n';
    struct pollfd p = {.fd = fd, .events = POLLOUT};
    if (poll(&p, 1, must ? STATUS_TIMEOUT : 0) == 1 && (p.revents & POLLOUT)) {
        ssize_t ignored = write(fd, text, len);
        (void) ignored;
    }
}

static bool
watch(ia3_io *io, int fd, void *tag, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = tag};
    return epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, fd, &e) == 0;
}

/* Creates the socket, accessible only to this user, replacing a stale one. */
static bool
open_socket(ia3_io *io, ia3_error *err)
{
    const char *path = io->server->options->socket;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    if (strlen(path) >= sizeof address.sun_path)
        return ia3_fail(err, IA3_E_INVALID, "socket path \"%s\" is too long", path);
    strcpy(address.sun_path, path);
    struct stat st;
    if (lstat(path, &st) == 0 && S_ISSOCK(st.st_mode))
        unlink(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    mode_t old = umask(0077);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *) &address, sizeof address) == 0;
    umask(old);
    if (!ok || listen(fd, 512) != 0 || !watch(io, fd, &io->listen_fd, EPOLLIN)) {
        ia3_fail(err, IA3_E_UNAVAILABLE, "could not listen on socket \"%s\"", path);
        ia3_fail_detail(err, "%s.", strerror(errno));
        if (ok)
            unlink(path);
        if (fd >= 0)
            close(fd);
        return false;
    }
    io->listen_fd = fd;
    return true;
}

static void
dispose_adapter(ia3_adapter *adapter, void *arg)
{
    ia3_queue_doom(((ia3_io *) arg)->server->queue, adapter);
}

static void
fail(ia3_io *io, const ia3_error *err)
{
    char text[1400], line[1500];
    ia3_error_join(err, text, sizeof text);
    snprintf(line, sizeof line, "failed %s", text);
    ia3_log(IA3_LOG_ERROR, "%s", text);
    tell(io, true, line);
    io->status = 1;
    io->stop = true;
}

/* Versions that replace weights may take half of what the backbone leaves of the memory limit. */
static size_t
weight_limit(const ia3_server *s)
{
    const size_t limit = s->device->memory_limit, taken = (size_t) ia3_model_bytes(s->model);
    return limit == 0 ? SIZE_MAX : limit > taken ? (limit - taken) / 2 : 0;
}

/* Begins to accept clients when the backbone is loaded. */
static void
become_ready(ia3_io *io)
{
    ia3_server *s = io->server;
    io->context = (ia3_request_context){
        .tok = s->tokenizer,
        .methods = ia3_model_methods(s->model),
        .layouts = ia3_model_layouts(s->model),
        .backbone_bytes = ia3_model_bytes(s->model),
        .adapters =
            ia3_adapter_cache_create(s->options->adapter_cache_size, weight_limit(s), dispose_adapter, io),
        .sets = ia3_choice_sets_create(s->tokenizer, ia3_model_config(s->model)->start_id, CHOICE_MEMORY),
        .stats = &s->stats,
    };
    ia3_error err = {0};
    if (!open_socket(io, &err)) {
        fail(io, &err);
        return;
    }
    io->ready = true;
    ia3_log(IA3_LOG_LOG, "backbone \"%s\" is ready: %s, %.1f million parameters in %s on %s",
            s->options->name, ia3_model_config(s->model)->model_type,
            (double) ia3_model_parameters(s->model) / 1e6, ia3_device_dtype_name(s->device),
            s->device->description);
    tell(io, true, "ready");
}

static void
handle_event(ia3_io *io, ia3_event *e)
{
    char line[32];
    switch (e->kind) {
    case IA3_EVENT_LOADING:
        snprintf(line, sizeof line, "loading %d", e->percent);
        tell(io, false, line);
        break;
    case IA3_EVENT_READY:
        if (!io->stop)
            become_ready(io);
        break;
    case IA3_EVENT_FAILED:
        fail(io, &e->error);
        break;
    case IA3_EVENT_PROGRESS:
        ia3_io_progress(e);
        break;
    case IA3_EVENT_DONE:
        ia3_io_complete(io, e->request);
        break;
    case IA3_EVENT_PREPARED:
        ia3_io_prepared(io, e->request);
        break;
    case IA3_EVENT_SHRINK:
        ia3_adapter_cache_shrink(io->context.adapters);
        ia3_queue_shrunk(io->server->queue);
        break;
    }
}

static void
handle_events(ia3_io *io)
{
    uint64_t count;
    ssize_t ignored = read(io->server->wake_fd, &count, sizeof count);
    (void) ignored;
    ia3_event *next;
    for (ia3_event *e = ia3_queue_events(io->server->queue); e; e = next) {
        next = e->next;
        handle_event(io, e);
        free(e);
    }
}

static bool
peer_allowed(int fd)
{
    struct ucred peer;
    socklen_t len = sizeof peer;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == geteuid();
}

static void
watch_listener(ia3_io *io, uint32_t events)
{
    struct epoll_event e = {.events = events, .data.ptr = &io->listen_fd};
    if (io->listen_fd >= 0)
        epoll_ctl(io->epoll_fd, EPOLL_CTL_MOD, io->listen_fd, &e);
}

/*
 * There is no descriptor or memory for another client: they wait until one leaves, or for a moment. Otherwise epoll would
 * report them again and again.
 */
static void
pause_accepting(ia3_io *io, int error)
{
    double now = ia3_now();
    if (now >= io->complain_at)
        ia3_log(IA3_LOG_WARNING, "clients have to wait: %s", strerror(error));
    io->complain_at = now + COMPLAINT_SECONDS;
    io->accept_at = now + ACCEPT_SECONDS;
    watch_listener(io, 0);
}

static void
resume_accepting(ia3_io *io)
{
    if (io->accept_at != 0)
        watch_listener(io, EPOLLIN);
    io->accept_at = 0;
}

static void
accept_clients(ia3_io *io)
{
    for (int i = 0; i < 64; i++) {
        int fd = accept4(io->listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
                pause_accepting(io, errno);
            return;
        }
        if (!peer_allowed(fd)) {
            ia3_log(IA3_LOG_WARNING, "rejected a connection from another operating-system user");
            close(fd);
            continue;
        }
        ia3_connection *c = ia3_connection_create(fd, ++io->next_id);
        if (io->n_connections >= io->max_connections || !watch(io, fd, c, EPOLLIN | EPOLLRDHUP)) {
            ia3_error err = {0};
            ia3_fail(&err, IA3_E_UNAVAILABLE, "engine has too many connections");
            ia3_connection_error(c, 0, &err);
            ia3_connection_free(c);
            continue;
        }
        c->reading = true;
        c->next = io->connections;
        if (c->next)
            c->next->prev = c;
        io->connections = c;
        io->n_connections++;
    }
}

/* Handles all frames in the bytes of one read. Their number is bounded, because the buffer of a read is. */
static void
take_bytes(ia3_io *io, ia3_connection *c, const uint8_t *p, size_t n)
{
    while (n > 0 && !c->closing && !c->broken) {
        ia3_frame frame;
        ia3_error err = {0};
        switch (ia3_frame_feed(&c->in, &p, &n, &frame)) {
        case IA3_FRAME_MORE:
            break;
        case IA3_FRAME_COMPLETE:
            ia3_io_frame(io, c, &frame);
            break;
        case IA3_FRAME_NO_MEMORY:
            ia3_fail(&err, IA3_E_MEMORY, "out of memory for a request of %zu bytes", frame.len);
            ia3_connection_error(c, frame.request, &err);
            break;
        case IA3_FRAME_BAD:
            ia3_fail(&err, IA3_E_PROTOCOL, "frame length is out of range");
            ia3_connection_error(c, 0, &err);
            break;
        }
    }
}

static void
read_client(ia3_io *io, ia3_connection *c)
{
    ssize_t n = recv(c->fd, io->scratch, SCRATCH, MSG_DONTWAIT);
    if (n > 0) {
        c->last_in = ia3_now();
        take_bytes(io, c, io->scratch, (size_t) n);
    } else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        c->broken = true;
}

static void
handle_client(ia3_io *io, ia3_connection *c, uint32_t events)
{
    if (events & EPOLLOUT)
        ia3_connection_flush(c);
    if ((events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) == 0 || c->broken)
        return;
    /* If the peer hangs up while we do not read from it, no one is left to read a reply. */
    if (c->reading && !c->closing && !(events & EPOLLERR))
        read_client(io, c);
    else if (events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
        c->broken = true;
}

static void
close_client(ia3_io *io, ia3_connection *c)
{
    ia3_io_forget(io, c);
    *(c->prev ? &c->prev->next : &io->connections) = c->next;
    if (c->next)
        c->next->prev = c->prev;
    io->n_connections--;
    ia3_connection_free(c);
    resume_accepting(io);
}

/*
 * Returns the client whose unfinished frame is largest, which may continue to send even if memory is short, unless
 * complete requests alone exceed the limit. *held is the memory of all requests and frames.
 */
static ia3_connection *
privileged(const ia3_io *io, size_t *held)
{
    ia3_connection *best = NULL;
    *held = io->request_bytes;
    for (ia3_connection *c = io->connections; c; c = c->next) {
        size_t n = ia3_frame_held(&c->in);
        *held += n;
        if (n > 0 && (best == NULL || n > ia3_frame_held(&best->in)))
            best = c;
    }
    return io->request_bytes < IA3_REQUEST_MEMORY ? best : NULL;
}

/* Begins to hand over to another engine: accepts no new clients, and dismisses the present ones when they are idle. */
static void
drain(ia3_io *io)
{
    if (io->draining)
        return;
    io->draining = true;
    close(io->listen_fd);
    unlink(io->server->options->socket);
    io->listen_fd = -1;
}

/* Whether a client waits for nothing. A request that is still arriving counts, unless its client has stalled. */
static bool
is_idle(const ia3_connection *c, double now)
{
    return c->n_requests == 0 && (c->in.have == 0 || now - c->last_in > BLOCK_SECONDS);
}

static void
dismiss(ia3_connection *c)
{
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_GOODBYE, 0);
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);
    c->closing = true;
}

/* Reports to the supervisor how much work is left, and stops when there are no clients. */
static void
continue_draining(ia3_io *io)
{
    int lasting = 0, others = 0;
    char line[64];
    for (const ia3_connection *c = io->connections; c; c = c->next)
        for (const ia3_request *r = c->requests; r; r = r->next)
            if (ia3_request_trains(r) || r->type == IA3_MERGE)
                lasting++;
            else
                others++;
    snprintf(line, sizeof line, "draining %d %d", lasting, others);
    if (strcmp(line, io->drain_line) != 0) {
        strcpy(io->drain_line, line);
        tell(io, false, line);
    }
    if (io->connections == NULL)
        io->stop = true;
}

/*
 * Gives memory that large requests needed back to the system; what malloc keeps is scattered among small blocks. Returns
 * true while that is still to be done: several requests may follow each other.
 */
static bool
trim(ia3_io *io, double now)
{
    if (io->trim_at == 0 || now < io->trim_at)
        return io->trim_at != 0;
    io->trim_at = 0;
    malloc_trim(0);
    return false;
}

/* Closes finished and stuck connections and decides which ones to read from. True if a timeout has to be watched. */
static bool
settle(ia3_io *io)
{
    double now = ia3_now();
    size_t held;
    ia3_connection *first = privileged(io, &held), *next;
    bool short_of_memory = held > IA3_REQUEST_MEMORY, clock = short_of_memory;
    for (ia3_connection *c = io->connections; c; c = next) {
        next = c->next;
        if (io->draining && !c->closing && !c->broken && is_idle(c, now))
            dismiss(c);
        bool stuck = (c->out && now - c->last_out > IA3_STALL_SECONDS) ||
                     (short_of_memory && c == first && now - c->last_in > BLOCK_SECONDS);
        if (stuck)
            ia3_log(IA3_LOG_WARNING, "closed connection of client \"%s\", which stopped responding",
                    c->client);
        if (c->broken || stuck || (c->closing && c->out == NULL)) {
            close_client(io, c);
            continue;
        }
        clock |= c->out != NULL;
        bool room = !short_of_memory || c == first || c->held + ia3_frame_held(&c->in) <= IA3_SMALL_SHARE;
        bool reading =
            !c->closing && c->unsent <= IA3_MAX_UNSENT && c->n_requests < IA3_MAX_OUTSTANDING && room;
        bool writing = c->out != NULL;
        if (reading == c->reading && writing == c->writing)
            continue;
        if (reading && !c->reading)
            c->last_in = now; /* it could not send while we did not read */
        struct epoll_event e = {.events = EPOLLRDHUP | (reading ? EPOLLIN : 0) | (writing ? EPOLLOUT : 0),
                                .data.ptr = c};
        if (epoll_ctl(io->epoll_fd, EPOLL_CTL_MOD, c->fd, &e) == 0) {
            c->reading = reading;
            c->writing = writing;
        }
    }
    ia3_stats_set(&io->server->stats, IA3_STAT_CONNECTIONS, io->n_connections);
    if (io->accept_at != 0 && now >= io->accept_at)
        resume_accepting(io);
    clock |= io->accept_at != 0;
    if (io->draining)
        continue_draining(io);
    return trim(io, now) || clock || io->draining;
}

static void
handle_signals(ia3_io *io)
{
    struct signalfd_siginfo info;
    while (read(io->signal_fd, &info, sizeof info) == sizeof info) {
        if (info.ssi_signo == SIGUSR1 && io->ready)
            drain(io);
        else
            io->stop = true;
    }
}

/* The supervisor asks for a sign of life with each byte that it writes to the pipe; one answers for several. */
static void
handle_death_pipe(ia3_io *io)
{
    char buffer[64], line[64];
    ssize_t n = read(io->server->options->death_fd, buffer, sizeof buffer);
    if (n > 0) {
        snprintf(line, sizeof line, "alive %.0f", ia3_heartbeat_silence(&io->heartbeat) * 1e3);
        tell(io, false, line);
        return;
    }
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
        ia3_log(IA3_LOG_DEBUG, "supervisor has exited");
        io->stop = true;
    }
}

static bool
start(ia3_io *io, ia3_server *s)
{
    io->server = s;
    io->listen_fd = -1;
    ia3_request_list_init(&io->small);
    ia3_request_list_init(&io->large);
    io->scratch = ia3_alloc_array(SCRATCH, 1);
    struct rlimit limit;
    io->max_connections = 1024 - SPARE_FDS;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0)
        io->max_connections = limit.rlim_cur > 2 * SPARE_FDS ? (int) limit.rlim_cur - SPARE_FDS : SPARE_FDS;
    sigset_t mask;
    sigemptyset(&mask);
    sigaddset(&mask, SIGTERM);
    sigaddset(&mask, SIGINT);
    sigaddset(&mask, SIGUSR1);
    io->signal_fd = signalfd(-1, &mask, SFD_NONBLOCK | SFD_CLOEXEC);
    io->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    int death = s->options->death_fd;
    return io->signal_fd >= 0 && io->epoll_fd >= 0 && watch(io, io->signal_fd, &io->signal_fd, EPOLLIN) &&
           watch(io, s->wake_fd, &s->wake_fd, EPOLLIN) && (death < 0 || watch(io, death, &io->stop, EPOLLIN));
}

/* Replies to all outstanding requests with an error. */
static void
say_goodbye(ia3_io *io)
{
    ia3_error err = {0};
    ia3_fail(&err, IA3_E_UNAVAILABLE, "engine is shutting down");
    for (ia3_connection *c = io->connections; c; c = c->next)
        for (ia3_request *r = c->requests; r; r = r->next)
            ia3_connection_error(c, r->id, &err);
    if (io->listen_fd >= 0) {
        close(io->listen_fd);
        unlink(io->server->options->socket);
    }
    while (io->connections)
        close_client(io, io->connections);
}

static void
handle(ia3_io *io, const struct epoll_event *e)
{
    void *tag = e->data.ptr;
    if (tag == &io->listen_fd)
        accept_clients(io);
    else if (tag == &io->signal_fd || tag == &io->stop) {
        if (tag == &io->signal_fd)
            handle_signals(io);
        else
            handle_death_pipe(io);
    } else if (tag == &io->server->wake_fd)
        handle_events(io);
    else
        handle_client(io, tag, e->events);
}

int
ia3_io_run(ia3_server *s)
{
    ia3_io *io = s->io = ia3_alloc(sizeof *io);
    if (!start(io, s)) {
        ia3_error err = {0};
        ia3_fail(&err, IA3_E_INTERNAL, "could not start the I/O loop: %s", strerror(errno));
        fail(io, &err);
    }
    bool clock = false;
    while (!io->stop) {
        struct epoll_event events[64];
        bool busy = io->small.first || io->large.first;
        int n = epoll_wait(io->epoll_fd, events, 64, busy ? 0 : clock ? 1000 : -1);
        if (n < 0 && errno != EINTR) {
            ia3_log(IA3_LOG_ERROR, "epoll_wait failed: %s", strerror(errno));
            io->status = 1;
            break;
        }
        for (int i = 0; i < n; i++)
            handle(io, &events[i]);
        ia3_io_prepare(io);
        clock = settle(io);
    }
    say_goodbye(io);
    return io->status;
}

void
ia3_io_free(ia3_server *s)
{
    ia3_io *io = s->io;
    handle_events(io); /* requests that the compute thread finished before it stopped */
    ia3_queue_clear(s->queue);
    while (io->orphans) {
        ia3_request *r = io->orphans;
        io->orphans = r->next;
        ia3_request_free(r, &io->context);
    }
    /* The compute thread has ended, so device copies may be freed here. */
    ia3_adapter_cache_free(io->context.adapters);
    ia3_choice_sets_free(io->context.sets);
    ia3_work *work = ia3_alloc(sizeof *work);
    ia3_queue_next(s->queue, true, false, work);
    for (int i = 0; i < work->n_doomed; i++)
        ia3_adapter_free(s->model, work->doomed[i]);
    free(work->doomed);
    free(work);
    close(io->signal_fd);
    close(io->epoll_fd);
    free(io->scratch);
    free(io);
    s->io = NULL;
}
