/*
 * dispatch.c
 *     Handles the clients' messages, on the I/O thread.
 */
#include "event_loop.h"

#include <stdio.h>
#include <stdlib.h>

#include "common/version.h"
#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "baseline.h"
#include "configure.h"
#include "long_texts.h"
#include "errands.h"
#include "merger.h"
#include "normalize.h"

#define MAX_TOKENIZE_BYTES (1u << 20) /* this is not done in slices, but on a thread of its own */
#define SLICE_SECONDS      0.002      /* time for tokenizing, per request and turn */
#define TURN_SECONDS                                                                                         \
    0.004 /* and for all requests, half of it for small ones: then the loop looks for messages */
#define FEW_TEXTS     8 /* a small request has no more, and no long one */
#define LARGE_REQUEST ((size_t) 4 << 20)
#define TRIM_SECONDS  0.5

/* Updates the totals of memory in use by the change in the request's size. */
static void
account(ia3_io *io, ia3_request *r)
{
    io->request_bytes += r->bytes - r->accounted;
    if (r->connection)
        r->connection->held += r->bytes - r->accounted;
    r->accounted = r->bytes;
}

static void
update_cache_stats(ia3_io *io)
{
    const ia3_adapter_cache *cache = io->context.adapters;
    ia3_stats_set(&io->server->stats, IA3_STAT_CACHED_ADAPTERS, ia3_adapter_cache_count(cache));
    ia3_stats_set(&io->server->stats, IA3_STAT_CACHED_BYTES, (double) ia3_adapter_cache_bytes(cache));
}

/* Frees a request; the memory of a large one goes back to the system a little later. */
static void
discard(ia3_io *io, ia3_request *r)
{
    if (r->bytes + r->frame_len > LARGE_REQUEST && io->trim_at == 0)
        io->trim_at = ia3_now() + TRIM_SECONDS;
    ia3_request_free(r, &io->context);
}

static void
unlink_orphan(ia3_io *io, ia3_request *r)
{
    *(r->prev ? &r->prev->next : &io->orphans) = r->next;
    if (r->next)
        r->next->prev = r->prev;
}

void
ia3_io_complete(ia3_io *io, ia3_request *r)
{
    ia3_connection *c = r->connection;
    account(io, r);
    if (c == NULL)
        unlink_orphan(io, r);
    else {
        if (atomic_load(&r->cancelled) && r->error.code == 0)
            ia3_fail(&r->error, IA3_E_CANCELLED, "request was cancelled");
        ia3_writer w = {0};
        ia3_request_reply(&w, r, io->server->tokenizer);
        ia3_connection_remove_request(c, r);
        ia3_connection_send(c, &w);
        ia3_connection_unpin(c, io->context.adapters);
    }
    io->request_bytes -= r->accounted;
    discard(io, r);
    update_cache_stats(io);
}

void
ia3_io_progress(const ia3_event *e)
{
    ia3_request *r = e->request;
    ia3_connection *c = r->connection;
    if (c == NULL || atomic_load(&r->cancelled) || c->unsent > IA3_MAX_UNSENT)
        return;
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_PROGRESS, r->id);
    ia3_put_u32(&w, e->step);
    ia3_put_u32(&w, e->steps);
    ia3_put_f64(&w, e->loss);
    ia3_put_f64(&w, e->examples_per_second);
    ia3_put_f64(&w, e->seconds_left);
    ia3_put_u32(&w, r->n_truncated);
    ia3_put_u32(&w, r->n_texts);
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);
}

/* Whether the compute thread may already have the request. */
static bool
submitted(const ia3_request *r, bool preparing)
{
    return ia3_request_has_rows(r) ? r->n_ready > 0 : !preparing;
}

/* Cancels a request. Returns true if the caller may complete it at once, false if it will come back from a thread. */
static bool
cancel(ia3_io *io, ia3_request *r)
{
    bool preparing =
        r->away || ia3_request_list_remove(&io->small, r) || ia3_request_list_remove(&io->large, r);
    if (r->away && !ia3_long_texts_remove(io->server->long_texts, r)) {
        r->dropped = true;
        return false;
    }
    if (submitted(r, preparing)) {
        ia3_queue_cancel(io->server->queue, r);
        return false;
    }
    atomic_store(&r->cancelled, true);
    return true;
}

void
ia3_io_forget(ia3_io *io, ia3_connection *c)
{
    while (c->requests) {
        ia3_request *r = c->requests;
        ia3_connection_remove_request(c, r);
        if (cancel(io, r)) {
            io->request_bytes -= r->accounted;
            discard(io, r);
            continue;
        }
        r->prev = NULL;
        r->next = io->orphans;
        if (io->orphans)
            io->orphans->prev = r;
        io->orphans = r;
    }
    if (c->n_pins > 0) {
        ia3_connection_unpin(c, io->context.adapters);
        update_cache_stats(io);
    }
}

static void
submit(ia3_io *io, ia3_request *r, bool finished)
{
    ia3_queue *q = io->server->queue;
    if (r->error.code != 0 || (finished && ia3_request_has_rows(r) && r->n_rows == 0))
        ia3_io_complete(io, r);
    else if (ia3_request_has_rows(r) && r->n_prepared > r->n_ready)
        ia3_queue_publish(q, r, r->n_prepared);
    else if (ia3_request_trains(r) && finished)
        ia3_queue_train(q, r);
}

/* Adds a request to those that are being tokenized. */
static void
prepare_later(ia3_io *io, ia3_request *r)
{
    bool small = ia3_request_has_rows(r) && r->n_rows <= FEW_TEXTS && r->frame_len <= IA3_LONG_TEXT;
    ia3_request_list_append(small ? &io->small : &io->large, r);
}

/* Tokenizes a slice of a request that is not in the list, and puts it back if there is more to do. */
static void
prepare_slice(ia3_io *io, ia3_request *r, double deadline)
{
    bool finished = ia3_request_prepare(r, &io->context, deadline);
    account(io, r);
    submit(io, r, finished);
    if (finished)
        return;
    if (!ia3_request_awaits_long_text(r))
        prepare_later(io, r);
    else if (!ia3_long_texts_add(io->server->long_texts, r, &io->context)) {
        ia3_request_prepare_long_text(r, &io->context);
        ia3_io_prepared(io, r);
    }
}

/* Tokenizes slices of the list's requests in turn until the time `until`. */
static void
prepare_until(ia3_io *io, ia3_request_list *list, double until)
{
    for (double now = ia3_now(); list->first && now < until; now = ia3_now()) {
        ia3_request *r = list->first;
        ia3_request_list_remove(list, r);
        prepare_slice(io, r, now + SLICE_SECONDS);
    }
}

void
ia3_io_prepare(ia3_io *io)
{
    if (io->small.first)
        prepare_until(io, &io->small, ia3_now() + TURN_SECONDS / 2);
    if (io->large.first)
        prepare_until(io, &io->large, ia3_now() + TURN_SECONDS / 2);
}

void
ia3_io_prepared(ia3_io *io, ia3_request *r)
{
    r->away = false;
    account(io, r);
    if (r->type == IA3_TOKENIZE) {
        atomic_store(&r->cancelled, r->dropped);
        ia3_io_complete(io, r);
    } else if (r->dropped) {
        if (cancel(io, r))
            ia3_io_complete(io, r);
    } else if (r->error.code != 0)
        submit(io, r, true);
    else
        prepare_later(io, r);
}

static void
reply_missing(ia3_io *io, ia3_connection *c, ia3_request *r, const uint8_t *missing, uint32_t n)
{
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_MISSING, r->id);
    ia3_put_u32(&w, n);
    ia3_put_bytes(&w, missing, (size_t) n * IA3_DIGEST_LEN);
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);

    /* Pin the adapters that were found, so that they are still cached when the request is repeated. */
    for (uint32_t i = 0; i < r->n_adapters; i++) {
        bool pinned = r->adapters[i] == NULL || c->pinned_bytes > IA3_MAX_PINNED;
        for (int k = 0; k < c->n_pins && !pinned; k++)
            pinned = c->pins[k] == r->adapters[i];
        if (!pinned) {
            ia3_connection_pin(c, r->adapters[i]);
            r->adapters[i] = NULL;
        }
    }
    discard(io, r);
    update_cache_stats(io);
}

/* Checks that the request's number is not in use; if it is, closes the connection and frees the frame. */
static bool
number_is_free(ia3_connection *c, ia3_frame *frame)
{
    for (const ia3_request *r = c->requests; r; r = r->next)
        if (r->id == frame->request) {
            ia3_error err = {0};
            free(frame->data);
            ia3_fail(&err, IA3_E_PROTOCOL, "request number %u is already in use", frame->request);
            ia3_connection_error(c, frame->request, &err);
            return false;
        }
    return true;
}

static void
handle_work(ia3_io *io, ia3_connection *c, ia3_frame *frame)
{
    ia3_error err = {0};
    uint32_t id = frame->request;
    if (!number_is_free(c, frame))
        return;
    ia3_request *r = ia3_request_parse(frame, io->context.methods, &err);
    if (r == NULL) {
        ia3_connection_error(c, id, &err);
        return;
    }
    uint8_t *missing = ia3_alloc_array(ia3_request_n_digests(r) + 1, IA3_DIGEST_LEN);
    uint32_t n = ia3_request_acquire(r, &io->context, missing);
    if (n > 0)
        reply_missing(io, c, r, missing, n);
    else {
        ia3_connection_add_request(c, r);
        account(io, r);
        prepare_later(io, r);
    }
    free(missing);
}

/* MERGE and LINEAR, which have a thread of their own. */
static void
handle_errand(ia3_io *io, ia3_connection *c, ia3_frame *frame)
{
    ia3_error err = {0};
    uint32_t id = frame->request;
    if (!number_is_free(c, frame))
        return;
    ia3_request *r =
        frame->type == IA3_MERGE ? ia3_merger_parse(frame, &err) : ia3_baseline_parse(frame, &err);
    if (r == NULL) {
        ia3_connection_error(c, id, &err);
        return;
    }
    ia3_connection_add_request(c, r);
    account(io, r);
    ia3_errands_add(io->server->errands, r);
}

/* NORMALIZE and CONFIGURE, which need no more than the layouts. */
static void
handle_adapter(ia3_io *io, ia3_connection *c, const ia3_frame *frame)
{
    ia3_error err = {0};
    ia3_writer w = {0};
    ia3_frame_begin(&w, frame->type == IA3_NORMALIZE ? IA3_NORMALIZE_OK : IA3_CONFIGURE_OK, frame->request);
    bool ok = frame->type == IA3_NORMALIZE
                  ? ia3_normalize(io->context.layouts, frame->data, frame->len, &w, &err)
                  : ia3_configure(io->context.layouts, frame->data, frame->len, &w, &err);
    if (ok) {
        ia3_frame_finish(&w);
        ia3_connection_send(c, &w);
        return;
    }
    free(w.data);
    ia3_connection_error(c, frame->request, &err);
}

static void
handle_hello(ia3_connection *c, const ia3_frame *frame)
{
    ia3_error err = {0};
    if (!ia3_parse_hello(frame->data, frame->len, c->client, sizeof c->client, &err)) {
        ia3_connection_error(c, frame->request, &err);
        return;
    }
    c->greeted = true;
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_HELLO_OK, frame->request);
    ia3_put_u32(&w, IA3_PROTOCOL_VERSION);
    ia3_put_str(&w, IA3_VERSION, strlen(IA3_VERSION));
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);
}

static void
put_text(ia3_writer *w, const char *s)
{
    ia3_put_str(w, s, strlen(s));
}

static void
put_methods(ia3_writer *w, const ia3_model *model)
{
    const ia3_method *const *methods = ia3_model_methods(model);
    uint32_t n = 0;
    while (methods[n])
        n++;
    ia3_put_u32(w, n);
    for (uint32_t i = 0; i < n; i++) {
        const ia3_layout *layout = ia3_layouts_standard(ia3_model_layouts(model), (int) i);
        put_text(w, methods[i]->name);
        ia3_put_f64(w, methods[i]->learning_rate);
        ia3_put_u32(w, (uint32_t) methods[i]->steps);
        ia3_put_u64(w, layout->n_values);
        uint32_t options = 0;
        while (methods[i]->options && methods[i]->options[options].name)
            options++;
        ia3_put_u32(w, options);
        const char *no_mean = ia3_layout_no_mean(layout);
        put_text(w, no_mean ? no_mean : "");
    }
}

static void
put_limits(ia3_writer *w)
{
    ia3_put_u32(w, IA3_N_RECIPE_LIMITS);
    for (int i = 0; i < IA3_N_RECIPE_LIMITS; i++) {
        put_text(w, ia3_recipe_limits[i].name);
        ia3_put_f64(w, ia3_recipe_limits[i].min);
        ia3_put_f64(w, ia3_recipe_limits[i].max);
    }
}

static void
handle_info(ia3_io *io, ia3_connection *c, const ia3_frame *frame)
{
    const ia3_server *s = io->server;
    const ia3_config *config = ia3_model_config(s->model);
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_INFO_OK, frame->request);
    put_text(&w, s->options->name);
    put_text(&w, s->path);
    put_text(&w, s->device->name);
    put_text(&w, s->device->description);
    put_text(&w, ia3_device_dtype_name(s->device));
    put_text(&w, config->model_type);
    ia3_put_bytes(&w, s->digest, IA3_DIGEST_LEN);
    ia3_put_u64(&w, ia3_model_parameters(s->model));
    ia3_put_u64(&w, ia3_model_bytes(s->model));
    ia3_put_u64(&w, ia3_model_layout(s->model)->n_values);
    ia3_put_u32(&w, (uint32_t) config->vocab_size);
    ia3_put_u32(&w, (uint32_t) config->d_model);
    ia3_put_u32(&w, (uint32_t) config->n_enc);
    ia3_put_u32(&w, (uint32_t) config->n_dec);
    ia3_put_f64(&w, config->dropout_rate);
    put_methods(&w, s->model);
    put_limits(&w);
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);
}

static void
handle_config(ia3_io *io, ia3_connection *c, const ia3_frame *frame)
{
    char *text = ia3_config_json(ia3_model_config(io->server->model));
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_CONFIG_OK, frame->request);
    put_text(&w, text);
    free(text);
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);
}

static void
put_row_cost(ia3_writer *w, const ia3_row_cost *cost)
{
    ia3_put_f64(w, cost->forward);
    ia3_put_f64(w, cost->backward);
}

static bool
describe_method(ia3_io *io, const ia3_frame *frame, ia3_writer *w, ia3_error *err)
{
    ia3_reader in = {.p = frame->data, .end = frame->data + frame->len};
    size_t n_text;
    const char *text = ia3_get_str(&in, &n_text);
    ia3_config config;
    ia3_variant variant;
    if (!ia3_configure_read(&in, io->context.methods, "METHOD", &variant, err))
        return false;
    if (!ia3_config_parse(&config, text, n_text, "configuration", err)) {
        err->code = err->code == IA3_E_BAD_CHECKPOINT ? IA3_E_INVALID : err->code;
        return false;
    }
    ia3_layout *layout = ia3_layout_create(&config, variant);
    ia3_put_u64(w, layout->n_values);
    put_row_cost(w, &layout->cost.encoder);
    put_row_cost(w, &layout->cost.decoder);
    put_row_cost(w, &layout->cost.keys);
    ia3_put_f64(w, layout->cost.lead_rows);
    ia3_put_f64(w, layout->cost.decoder_lead_rows);
    ia3_put_f64(w, layout->cost.below_vectors);
    ia3_put_f64(w, layout->cost.trained);
    ia3_put_f64(w, layout->cost.expanded);
    ia3_put_f64(w, layout->cost.weights);
    ia3_put_f64(w, layout->cost.positions);
    ia3_put_f64(w, layout->cost.draws);
    ia3_put_f64(w, layout->cost.step);
    ia3_put_u32(w, (uint32_t) layout->members);
    ia3_layout_free(layout);
    return true;
}

static void
handle_method(ia3_io *io, ia3_connection *c, const ia3_frame *frame)
{
    ia3_error err = {0};
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_METHOD_OK, frame->request);
    if (describe_method(io, frame, &w, &err)) {
        ia3_frame_finish(&w);
        ia3_connection_send(c, &w);
        return;
    }
    free(w.data);
    ia3_connection_error(c, frame->request, &err);
}

/* Leaves a long text to the thread for these, with the frame's data. False if there is no thread. */
static bool
tokenize_later(ia3_io *io, ia3_connection *c, const ia3_frame *frame, const char *text, size_t len)
{
    ia3_request *r = ia3_request_tokenize(frame, text, len);
    if (!ia3_long_texts_add(io->server->long_texts, r, &io->context)) {
        r->frame = NULL;
        ia3_request_free(r, &io->context);
        return false;
    }
    ia3_connection_add_request(c, r);
    account(io, r);
    return true;
}

/* Takes ownership of frame->data. */
static void
handle_tokenize(ia3_io *io, ia3_connection *c, ia3_frame *frame)
{
    ia3_error err = {0};
    ia3_reader r = {.p = frame->data, .end = frame->data + frame->len};
    size_t len;
    const char *text = ia3_get_str(&r, &len);
    int32_t *ids = NULL;
    int n = 0;
    if (!number_is_free(c, frame))
        return;
    if (r.bad || r.p != r.end)
        ia3_fail(&err, IA3_E_PROTOCOL, "malformed TOKENIZE message");
    else if (len > MAX_TOKENIZE_BYTES) {
        ia3_fail(&err, IA3_E_TOO_LONG, "text is too long to be tokenized");
        ia3_fail_detail(&err, "It has %zu bytes, but the limit is %u.", len, MAX_TOKENIZE_BYTES);
    } else if (len <= IA3_LONG_TEXT || !tokenize_later(io, c, frame, text, len))
        ia3_tokenizer_encode(io->server->tokenizer, text, len, &ids, NULL, &n, &err);
    else
        return;
    if (err.code != 0)
        ia3_connection_error(c, frame->request, &err);
    else {
        ia3_writer w = {0};
        ia3_frame_begin(&w, IA3_TOKENIZE_OK, frame->request);
        ia3_put_tokens(&w, io->server->tokenizer, ids, n);
        ia3_frame_finish(&w);
        ia3_connection_send(c, &w);
    }
    free(ids);
    free(frame->data);
}

static void
handle_put(ia3_io *io, ia3_connection *c, const ia3_frame *frame)
{
    ia3_error err = {0};
    if (c->pinned_bytes > IA3_MAX_PINNED) {
        ia3_fail(&err, IA3_E_MEMORY, "too many adapters in one request");
        ia3_fail_hint(&err, "Use fewer tasks in one request.");
        ia3_connection_error(c, frame->request, &err);
        return;
    }
    ia3_cached_adapter *a = ia3_put_adapter(&io->context, frame->data, frame->len, &err);
    if (a == NULL) {
        ia3_connection_error(c, frame->request, &err);
        return;
    }
    ia3_connection_pin(c, a);
    update_cache_stats(io);
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_OK, frame->request);
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);
}

static void
handle_cancel(ia3_io *io, ia3_connection *c, const ia3_frame *frame)
{
    ia3_reader in = {.p = frame->data, .end = frame->data + frame->len};
    uint32_t id = ia3_get_u32(&in);
    if (in.bad || in.p != in.end) {
        ia3_error err = {0};
        ia3_fail(&err, IA3_E_PROTOCOL, "malformed CANCEL message");
        ia3_connection_error(c, frame->request, &err);
        return;
    }
    ia3_request *r = c->requests;
    while (r && r->id != id)
        r = r->next;
    /* If the request does not exist, it was answered in the meantime, which is not an error. */
    if (r && !atomic_load(&r->cancelled) && cancel(io, r))
        ia3_io_complete(io, r);
}

static void
handle_stats(ia3_io *io, ia3_connection *c, const ia3_frame *frame)
{
    static const char *const names[IA3_N_STATS] = IA3_STAT_NAMES;
    double values[IA3_N_STATS];
    ia3_stats_snapshot(&io->server->stats, values);
    ia3_writer w = {0};
    ia3_frame_begin(&w, IA3_STATS_OK, frame->request);
    ia3_put_u32(&w, IA3_N_STATS);
    for (int i = 0; i < IA3_N_STATS; i++) {
        put_text(&w, names[i]);
        ia3_put_f64(&w, values[i]);
    }
    ia3_frame_finish(&w);
    ia3_connection_send(c, &w);
}

void
ia3_io_frame(ia3_io *io, ia3_connection *c, ia3_frame *frame)
{
    ia3_error err = {0};
    if (c->greeted == (frame->type == IA3_HELLO)) {
        ia3_fail(&err, IA3_E_PROTOCOL,
                 c->greeted ? "second HELLO on a connection" : "first message must be HELLO");
        ia3_connection_error(c, frame->request, &err);
        free(frame->data);
        return;
    }
    switch (frame->type) {
    case IA3_HELLO:
        handle_hello(c, frame);
        break;
    case IA3_SCORE:
    case IA3_GENERATE:
    case IA3_TRAIN:
    case IA3_TRAIN_RUNS:
        handle_work(io, c, frame);
        return; /* the data now belongs to the request */
    case IA3_MERGE:
    case IA3_LINEAR:
        handle_errand(io, c, frame);
        return; /* likewise */
    case IA3_NORMALIZE:
    case IA3_CONFIGURE:
        handle_adapter(io, c, frame);
        break;
    case IA3_TOKENIZE:
        handle_tokenize(io, c, frame);
        return; /* likewise */
    case IA3_PUT_ADAPTER:
        handle_put(io, c, frame);
        break;
    case IA3_CANCEL:
        handle_cancel(io, c, frame);
        break;
    case IA3_METHOD:
        handle_method(io, c, frame);
        break;
    case IA3_INFO:
    case IA3_CONFIG:
    case IA3_STATS:
        if (frame->len != 0) {
            ia3_fail(&err, IA3_E_PROTOCOL, "malformed %s message",
                     frame->type == IA3_INFO     ? "INFO"
                     : frame->type == IA3_CONFIG ? "CONFIG"
                                                 : "STATS");
            ia3_connection_error(c, frame->request, &err);
        } else if (frame->type == IA3_INFO)
            handle_info(io, c, frame);
        else if (frame->type == IA3_CONFIG)
            handle_config(io, c, frame);
        else
            handle_stats(io, c, frame);
        break;
    default:
        ia3_fail(&err, IA3_E_PROTOCOL, "unknown message type %u", frame->type);
        ia3_connection_error(c, frame->request, &err);
    }
    free(frame->data);
}
