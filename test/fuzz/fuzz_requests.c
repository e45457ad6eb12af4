/*
 * fuzz_requests.c
 *     Fuzzes what the engine's I/O thread does with the messages of a client: it parses, answers, queues and cancels
 *     them as in a running engine, but nothing is computed and no checkpoint is merged.
 *
 * An input is a sequence of messages: the type, the number of the request, the length of the payload in two bytes
 * (little-endian) and the payload. SCORE, GENERATE and TRAIN with a number from 128 on are tokenized to their end, others
 * wait until they are cancelled. The digest of PUT_ADAPTER is made right if the number is even, since no fuzzer finds a
 * SHA-256.
 */
#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/model/methods/methods.h"
#include "engine/serve/baseline.h"
#include "engine/serve/event_loop.h"
#include "engine/serve/merger.h"
#include "engine/serve/normalize.h"

#define BACKBONE  "test/golden/t5-relu-tied"
#define TOKENIZER "test/backbone"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ia3_options options = {.name = "fuzz", .adapter_cache_size = 1 << 16};
static ia3_server server = {.options = &options};
static ia3_io io = {.server = &server, .ready = true};
static volatile unsigned sink;

static void
dispose(ia3_adapter *device, void *arg)
{
    if (device != NULL) /* there is no device copy without a compute thread */
        abort();
}

static void
set_up(void)
{
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open(BACKBONE, &err);
    server.device = ia3_device_open("cpu", IA3_F32, 1, 0, &err);
    server.tokenizer = ia3_tokenizer_open(TOKENIZER, 8192, &err);
    if (ck == NULL || server.device == NULL || server.tokenizer == NULL ||
        !(server.model = ia3_model_load(ck, server.device, ia3_methods, NULL, NULL, &err)))
        abort();
    ia3_checkpoint_close(ck);
    ia3_stats_init(&server.stats);
    server.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    server.queue = ia3_queue_create(server.wake_fd, 1024, &server.stats);
    ia3_request_list_init(&io.small);
    ia3_request_list_init(&io.large);
    io.context = (ia3_request_context){
        .tok = server.tokenizer,
        .methods = ia3_model_methods(server.model),
        .layouts = ia3_model_layouts(server.model),
        .adapters = ia3_adapter_cache_create(options.adapter_cache_size, SIZE_MAX, dispose, NULL),
        .sets = ia3_choice_sets_create(server.tokenizer, ia3_model_config(server.model)->start_id, 1 << 16),
        .stats = &server.stats,
    };
}

static void
touch(ia3_span s)
{
    for (uint32_t i = 0; i < s.len; i++)
        sink += (uint8_t) s.data[i];
}

/* Only parses: a merged checkpoint would be written wherever the fuzzer says. */
static void
merge(const ia3_frame *frame)
{
    ia3_error err = {0};
    ia3_request *r = ia3_merger_parse(frame, &err);
    if ((r == NULL) != (err.code == IA3_E_PROTOCOL || err.code == IA3_E_INVALID))
        abort();
    if (r == NULL)
        return;
    touch(r->merge.method);
    touch(r->merge.adapter);
    touch(r->merge.directory);
    if (r->merge.directory.len == 0 || r->merge.directory.len >= PATH_MAX)
        abort();
    ia3_request_free(r, &io.context);
}

static uint8_t *
grow(uint8_t *data, size_t len, size_t cap)
{
    data = realloc(data, cap);
    if (data == NULL)
        abort();
    return data;
}

/* The adapter in NORMALIZE_OK, behind the method, its options and a list of those that were assumed. */
static const char *
stored(ia3_reader *r, size_t *n)
{
    ia3_get_str(r, n);
    ia3_get_str(r, n);
    for (uint32_t i = ia3_get_count(r, 4); i > 0; i--)
        ia3_get_str(r, n);
    return ia3_get_str(r, n);
}

/* What NORMALIZE has made is accepted and stays as it is. */
static void
normalize(const ia3_frame *frame)
{
    ia3_error err = {0};
    ia3_writer first = {.grow = grow}, again = first, request = first;
    if (ia3_normalize(io.context.layouts, frame->data, frame->len, &first, &err)) {
        ia3_reader r = {.p = first.data, .end = first.data + first.len};
        size_t n;
        const char *adapter = stored(&r, &n);
        ia3_put_str(&request, adapter, n);
        ia3_put_str(&request, NULL, 0);
        if (!ia3_normalize(io.context.layouts, request.data, request.len, &again, &err))
            abort();
        ia3_reader r2 = {.p = again.data, .end = again.data + again.len};
        size_t n2;
        const char *adapter2 = stored(&r2, &n2);
        if (n != n2 || memcmp(adapter, adapter2, n) != 0)
            abort();
    } else if (err.code != IA3_E_PROTOCOL && err.code != IA3_E_BAD_ADAPTER && err.code != IA3_E_INVALID &&
               err.code != IA3_E_UNSUPPORTED)
        abort();
    free(first.data);
    free(again.data);
    free(request.data);
}

static void
correct_digest(const ia3_frame *frame)
{
    ia3_reader r = {.p = frame->data, .end = frame->data + frame->len};
    size_t n, n_options;
    ia3_get_bytes(&r, IA3_DIGEST_LEN);
    ia3_get_str(&r, &n);
    const char *options = ia3_get_str(&r, &n_options), *adapter = ia3_get_str(&r, &n);
    if (r.bad)
        return;
    SHA256((const uint8_t *) adapter, n, frame->data);
    if (n_options > 0) {
        uint8_t *both = malloc(IA3_DIGEST_LEN + n_options);
        memcpy(both, frame->data, IA3_DIGEST_LEN);
        memcpy(both + IA3_DIGEST_LEN, options, n_options);
        SHA256(both, IA3_DIGEST_LEN + n_options, frame->data);
        free(both);
    }
}

/* Tokenizes a request to its end, as the I/O thread does in slices when a request is not cancelled at once. */
static void
prepare(const ia3_frame *frame)
{
    ia3_error err = {0};
    ia3_request *r = ia3_request_parse(frame, io.context.methods, &err);
    if (r == NULL)
        return;
    uint8_t *missing = ia3_alloc_array(ia3_request_n_digests(r) + 1, IA3_DIGEST_LEN);
    if (ia3_request_acquire(r, &io.context, missing) == 0)
        while (!ia3_request_prepare(r, &io.context, ia3_now() + 1000))
            if (ia3_request_awaits_long_text(r))
                ia3_request_prepare_long_text(r, &io.context);
    if (r->error.code == 0)
        for (uint32_t i = 0; ia3_request_has_rows(r) && i < r->n_prepared; i++)
            if (!ia3_row_failed(&r->rows[i]) && (r->rows[i].n_ids < 1 || r->rows[i].ids == NULL))
                abort();
    free(missing);
    ia3_request_free(r, &io.context);
}

/* Parses LINEAR, which the thread for errands would carry out. */
static void
linear(const ia3_frame *frame)
{
    ia3_error err = {0};
    ia3_request *r = ia3_baseline_parse(frame, &err);
    if (r == NULL)
        return;
    for (uint32_t i = 0; i < r->linear.n; i++) {
        if (r->linear.rows[i].fold >= r->linear.n_folds)
            abort();
        for (uint32_t k = 0; k < r->linear.rows[i].n; k++)
            if (r->linear.rows[i].words[k] >= r->linear.n_words)
                abort();
    }
    ia3_request_free(r, &io.context);
}

static void
handle(ia3_connection *c, uint8_t type, uint8_t number, const uint8_t *payload, size_t len)
{
    ia3_frame frame = {
        .type = type, .request = number, .len = (uint32_t) len, .data = malloc(len > 0 ? len : 1)};
    memcpy(frame.data, payload, len);
    if (type == IA3_MERGE) {
        merge(&frame); /* frees the data */
        return;
    }
    if (type == IA3_LINEAR) {
        linear(&frame); /* likewise */
        return;
    }
    if (number >= 128 &&
        (type == IA3_SCORE || type == IA3_GENERATE || type == IA3_TRAIN || type == IA3_TRAIN_RUNS)) {
        prepare(&frame); /* likewise */
        return;
    }
    if (type == IA3_NORMALIZE)
        normalize(&frame);
    if (type == IA3_PUT_ADAPTER && number % 2 == 0)
        correct_digest(&frame);
    ia3_io_frame(&io, c, &frame);
}

/* Reads what was sent, so that the next reply can be. */
static void
drain(int fd)
{
    static uint8_t bytes[1 << 16];
    while (recv(fd, bytes, sizeof bytes, MSG_DONTWAIT) > 0)
        ;
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    int fds[2];
    if (server.model == NULL)
        set_up();
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0)
        abort();
    ia3_connection *c = ia3_connection_create(fds[0], ++io.next_id);
    c->greeted = true;
    while (size >= 4 && !c->closing) {
        size_t len = (size_t) data[2] | (size_t) data[3] << 8;
        if (len > size - 4)
            len = size - 4;
        if (len >= IA3_LONG_TEXT) /* longer texts are for a thread that does not run here */
            len = IA3_LONG_TEXT - 1;
        handle(c, data[0], data[1], data + 4, len);
        data += 4 + len;
        size -= 4 + len;
        drain(fds[1]);
    }
    ia3_io_forget(&io, c);
    if (c->requests != NULL || c->n_pins != 0 || c->held != 0 || io.request_bytes != 0 ||
        (io.small.first || io.large.first))
        abort();
    ia3_connection_free(c);
    close(fds[1]);
    return 0;
}
