/*
 * request.c
 *     Parses requests, tokenizes them in slices, and writes their replies.
 */
#include "request.h"

#include <openssl/sha.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"
#include "engine/base/log.h"
#include "baseline.h"
#include "engine/files/input.h"

/* Takes over the runs of the message, which are freed with the frame. */
static void
take_runs(ia3_request *r)
{
    const bool whole = r->type == IA3_TRAIN; /* a single run on all examples */
    r->n_runs = whole ? 1 : r->train.n_runs;
    r->runs = ia3_alloc_array(r->n_runs, sizeof *r->runs);
    r->bytes += r->n_runs * sizeof *r->runs;
    for (uint32_t k = 0; k < r->n_runs; k++) {
        ia3_run *run = &r->runs[k];
        run->seed = whole ? r->recipe.seed : r->train.runs[k].seed;
        run->n = whole ? r->n_examples : r->train.runs[k].n;
        run->weights = ia3_wire_weights_read(whole ? &r->train.weights : &r->train.runs[k].weights);
        r->bytes += run->weights ? run->n * sizeof *run->weights : 0;
        if (whole)
            continue;
        run->examples = ia3_alloc_array(run->n, sizeof *run->examples);
        for (uint32_t i = 0; i < run->n; i++)
            run->examples[i] = ia3_wire_run_example(&r->train.runs[k], i);
        r->bytes += run->n * sizeof *run->examples;
    }
}

/* Takes over which choices of the sets are verbalizers of which label, which is freed with the frame. */
static void
take_verbalizers(ia3_request *r)
{
    r->verbalizers = ia3_alloc_array(r->n_sets ? r->n_sets : 1, sizeof *r->verbalizers);
    r->bytes += r->n_sets * sizeof *r->verbalizers;
    for (uint32_t s = 0; s < r->n_sets; s++) {
        const ia3_wire_set *set = &r->train.sets.sets[s];
        ia3_verbalizers *v = &r->verbalizers[s];
        if (set->n_labels == 0)
            continue;
        v->n = (int) set->n_labels;
        v->first = ia3_alloc_array((size_t) set->n_labels + 1, sizeof *v->first);
        for (int l = 0; l < v->n; l++)
            v->first[l + 1] = v->first[l] + (int) ia3_wire_set_count(set, (uint32_t) l);
        r->bytes += ((size_t) v->n + 1) * sizeof *v->first;
    }
}

/* Takes over the labels of the examples, which are freed with the frame; of ordinary sets, the only one. */
static void
take_labels(ia3_request *r)
{
    size_t n = 0;
    for (uint32_t i = 0; i < r->n_examples; i++)
        n += r->train.examples[i].n_labels;
    r->right = ia3_alloc_array(n ? n : 1, sizeof *r->right);
    r->bytes += n * sizeof *r->right;
    n = 0;
    for (uint32_t i = 0; i < r->n_examples; i++) {
        const ia3_wire_example *wire = &r->train.examples[i];
        r->examples[i].right = r->right + n;
        r->examples[i].n_right = (int) wire->n_labels;
        for (uint32_t k = 0; k < wire->n_labels; k++)
            r->right[n++] = ia3_wire_example_label(wire, k);
    }
}

ia3_request *
ia3_request_parse(const ia3_frame *frame, const ia3_method *const *methods, ia3_error *err)
{
    ia3_request *r = ia3_alloc(sizeof *r);
    r->type = (Ia3Message) frame->type;
    r->id = frame->request;
    r->frame = frame->data;
    r->frame_len = frame->len;
    r->arrived = ia3_now();
    atomic_init(&r->cancelled, false);
    bool ok = r->type == IA3_SCORE ? ia3_parse_score(&r->score, frame->data, frame->len, err)
              : r->type == IA3_GENERATE
                  ? ia3_parse_generate(&r->score, frame->data, frame->len, err)
                  : ia3_parse_train(&r->train, r->type, methods, frame->data, frame->len, err);
    if (!ok) {
        free(r->frame);
        free(r);
        return NULL;
    }
    const ia3_wire_sets *sets = ia3_request_has_rows(r) ? &r->score.sets : &r->train.sets;
    r->n_sets = sets->n;
    r->sets = ia3_alloc_array(sets->n ? sets->n : 1, sizeof *r->sets);
    r->bytes = frame->len + sets->n * (sizeof *sets->sets + sizeof *r->sets);
    for (uint32_t s = 0; s < sets->n; s++)
        r->bytes += sets->sets[s].n * sizeof(ia3_span);
    if (ia3_request_has_rows(r)) {
        r->n_rows = r->score.n_rows;
        r->n_wanted = r->n_rows;
        r->rows = ia3_alloc_array(r->n_rows ? r->n_rows : 1, sizeof *r->rows);
        r->bytes += r->n_rows * (sizeof *r->rows + sizeof *r->score.rows);
        r->sampling = r->score.sampling;
        r->score.sampling = NULL; /* r->sampling must outlive the message */
        if (r->sampling)
            r->bytes += r->n_rows * sizeof *r->sampling;
    } else {
        r->recipe = r->train.recipe;
        if (r->train.state.len > 0) { /* copied, because it must outlive the frame */
            r->state_len = r->train.state.len;
            r->state = ia3_alloc_array(r->state_len, 1);
            memcpy(r->state, r->train.state.data, r->state_len);
            r->bytes += r->state_len;
        }
        r->n_examples = r->train.n_examples;
        r->n_texts = r->train.n_texts;
        r->examples = ia3_alloc_array(r->n_examples, sizeof *r->examples);
        r->text_ids = ia3_alloc_array(r->n_texts, sizeof *r->text_ids);
        r->text_lens = ia3_alloc_array(r->n_texts, sizeof *r->text_lens);
        r->bytes += r->n_examples * (sizeof *r->examples + sizeof *r->train.examples) +
                    r->n_texts * (sizeof *r->text_ids + sizeof *r->text_lens + sizeof *r->train.inputs);
        take_runs(r);
        take_verbalizers(r);
        take_labels(r);
    }
    return r;
}

uint32_t
ia3_request_n_digests(const ia3_request *r)
{
    return ia3_request_has_rows(r) ? r->score.n_digests : 1;
}

uint32_t
ia3_request_acquire(ia3_request *r, ia3_request_context *x, uint8_t *missing)
{
    const uint8_t *digests = ia3_request_has_rows(r) ? r->score.digests : r->train.init;
    uint32_t n_missing = 0;
    r->n_adapters = ia3_request_n_digests(r);
    r->adapters = ia3_alloc_array(r->n_adapters ? r->n_adapters : 1, sizeof *r->adapters);
    r->bytes += r->n_adapters * sizeof *r->adapters;
    for (uint32_t i = 0; i < r->n_adapters; i++) {
        const uint8_t *digest = digests + (size_t) i * IA3_DIGEST_LEN;
        if (ia3_digest_is_zero(digest))
            continue;
        r->adapters[i] = ia3_adapter_cache_acquire(x->adapters, digest);
        ia3_stats_add(x->stats, r->adapters[i] ? IA3_STAT_CACHE_HITS : IA3_STAT_CACHE_MISSES, 1);
        if (r->adapters[i])
            continue;
        bool listed = false;
        for (uint32_t k = 0; k < n_missing && !listed; k++)
            listed = memcmp(missing + (size_t) k * IA3_DIGEST_LEN, digest, IA3_DIGEST_LEN) == 0;
        if (!listed)
            memcpy(missing + (size_t) n_missing++ * IA3_DIGEST_LEN, digest, IA3_DIGEST_LEN);
    }
    return n_missing;
}

/* Encodes an input of a request. */
static bool
encode(ia3_request_context *x, const ia3_wire_input *wire, uint32_t max_tokens, int32_t **ids, int *n,
       bool *truncated, ia3_error *err)
{
    ia3_field *fields = wire->n_fields ? ia3_alloc_array(wire->n_fields, sizeof *fields) : NULL;
    for (uint32_t f = 0; f < wire->n_fields; f++)
        ia3_wire_field(wire, f, &fields[f].begin, &fields[f].end);
    ia3_input in = {.text = wire->text.data,
                    .len = wire->text.len,
                    .tail = wire->tail,
                    .n_fields = wire->n_fields,
                    .fields = fields};
    bool ok = ia3_input_encode(x->tok, &in, max_tokens, ids, n, truncated, err);
    free(fields);
    return ok;
}

/* Lets the whole request fail. Returns true, because nothing is left to do. */
static bool
give_up(ia3_request *r, const ia3_error *err)
{
    r->error = *err;
    return true;
}

/* Tokenizes the next choice of the set under construction. Returns true if the request failed. */
static bool
prepare_set(ia3_request *r, ia3_request_context *x)
{
    const ia3_wire_sets *sets = ia3_request_has_rows(r) ? &r->score.sets : &r->train.sets;
    const ia3_wire_set *wire = &sets->sets[r->sets_done];
    ia3_choice_set **set = &r->sets[r->sets_done];
    if (*set == NULL)
        *set = ia3_choice_sets_get(x->sets, wire);
    if (!ia3_choice_set_build(x->sets, *set, sets->choices + wire->first))
        return false;
    r->bytes += (*set)->bytes;
    r->sets_done++;
    /* An invalid set affects only its rows in a SCORE request, but all of a TRAIN request. */
    return (*set)->choices == NULL && !ia3_request_has_rows(r) && give_up(r, &(*set)->error);
}

/* Allocates the scores of all rows, when all choice sets are known. */
static bool
allocate_scores(ia3_request *r)
{
    size_t n = 0;
    for (uint32_t i = 0; i < r->n_rows; i++) {
        const ia3_choices *c = r->sets[r->score.rows[i].set]->choices;
        n += c ? (size_t) c->n : 0;
    }
    r->scores = malloc((n ? n : 1) * sizeof *r->scores);
    if (r->scores == NULL)
        return ia3_fail(&r->error, IA3_E_MEMORY, "out of memory for the scores of %u rows", r->n_rows);
    r->bytes += n * sizeof *r->scores;
    n = 0;
    for (uint32_t i = 0; i < r->n_rows; i++) {
        r->rows[i].scores = r->scores + n;
        const ia3_choices *c = r->sets[r->score.rows[i].set]->choices;
        n += c ? (size_t) c->n : 0;
    }
    return true;
}

static void
prepare_row(ia3_request *r, ia3_request_context *x)
{
    const ia3_wire_row *wire = &r->score.rows[r->n_prepared];
    ia3_row *row = &r->rows[r->n_prepared++];
    row->request = r;
    row->adapter = r->adapters[wire->adapter];
    if (r->sampling)
        row->sampling = &r->sampling[row - r->rows];
    else
        row->set = r->sets[wire->set];
    if (ia3_row_failed(row))
        return;
    ia3_error err = {0};
    bool truncated;
    if (!encode(x, &wire->input, r->score.max_input_tokens, &row->ids, &row->n_ids, &truncated, &err)) {
        ia3_row_fail(row, &err);
        r->bytes += row->error.cap;
        return;
    }
    ia3_stats_add(x->stats, IA3_STAT_TRUNCATED_ROWS, truncated);
    r->bytes += (size_t) row->n_ids * sizeof *row->ids + 16;
}

static bool
prepare_text(ia3_request *r, ia3_request_context *x)
{
    uint32_t t = r->n_prepared++;
    ia3_error err = {0};
    bool truncated = false;
    if (!encode(x, &r->train.inputs[t], r->train.max_input_tokens, &r->text_ids[t], &r->text_lens[t],
                &truncated, &err)) {
        uint32_t i = 0; /* the example that this text belongs to */
        while (i + 1 < r->n_examples && r->train.examples[i + 1].first <= t)
            i++;
        if (err.detail[0] == '\0')
            ia3_fail_detail(&err, "The error is in example %u.", i + 1);
        return give_up(r, &err);
    }
    r->n_truncated += truncated;
    if (r->state == NULL) /* otherwise the run's first request has counted it */
        ia3_stats_add(x->stats, IA3_STAT_TRUNCATED_ROWS, truncated);
    r->bytes += (size_t) r->text_lens[t] * sizeof(int32_t) + 16;
    return false;
}

/* Frees what only tokenizing needed. */
static bool
finish_preparing(ia3_request *r)
{
    for (uint32_t i = 0; i < r->n_examples; i++) {
        const ia3_wire_example *wire = &r->train.examples[i];
        const bool multi_label = r->train.sets.sets[wire->set].multi_label;
        r->examples[i] = (ia3_train_example){
            .n_texts = (int) wire->n_texts,
            .ids = (const int32_t *const *) r->text_ids + wire->first,
            .n_ids = r->text_lens + wire->first,
            .choices = r->sets[wire->set]->choices,
            .verbalizers = r->verbalizers[wire->set].n > 0 ? &r->verbalizers[wire->set] : NULL,
            .label = multi_label ? 0 : (int) r->examples[i].right[0],
            .n_right = multi_label ? r->examples[i].n_right : 0,
            .right = r->examples[i].right,
        };
    }
    ia3_score_message_free(&r->score);
    ia3_train_message_free(&r->train);
    free(r->frame);
    r->frame = NULL;
    r->bytes -= r->frame_len;
    return true;
}

bool
ia3_request_prepare(ia3_request *r, ia3_request_context *x, double deadline)
{
    while (r->sets_done < r->n_sets) {
        if (prepare_set(r, x))
            return true;
        if (ia3_now() >= deadline)
            return false;
    }
    if (r->type == IA3_SCORE && r->scores == NULL && !allocate_scores(r))
        return true;
    uint32_t n = ia3_request_has_rows(r) ? r->n_rows : r->n_texts;
    while (r->n_prepared < n) {
        if (ia3_request_awaits_long_text(r))
            return false;
        if (ia3_request_has_rows(r))
            prepare_row(r, x);
        else if (prepare_text(r, x))
            return true;
        if (r->n_prepared < n && ia3_now() >= deadline)
            return false;
    }
    return finish_preparing(r);
}

/* Fields are counted, since shortening them takes time, too. */
static bool
is_long(const ia3_wire_input *input)
{
    return input->text.len > IA3_LONG_TEXT || input->n_fields > IA3_LONG_TEXT / 8;
}

bool
ia3_request_awaits_long_text(const ia3_request *r)
{
    if (r->sets_done < r->n_sets || (r->type == IA3_SCORE && r->scores == NULL))
        return false;
    if (ia3_request_has_rows(r))
        return r->n_prepared < r->n_rows && is_long(&r->score.rows[r->n_prepared].input);
    return r->n_prepared < r->n_texts && is_long(&r->train.inputs[r->n_prepared]);
}

void
ia3_request_prepare_long_text(ia3_request *r, ia3_request_context *x)
{
    if (ia3_request_has_rows(r))
        prepare_row(r, x);
    else if (r->type == IA3_TOKENIZE)
        ia3_tokenizer_encode(x->tok, r->text.data, r->text.len, &r->text_ids[0], NULL, &r->text_lens[0],
                             &r->error);
    else
        prepare_text(r, x);
}

ia3_request *
ia3_request_tokenize(const ia3_frame *frame, const char *text, size_t len)
{
    ia3_request *r = ia3_alloc(sizeof *r);
    r->type = IA3_TOKENIZE;
    r->id = frame->request;
    r->frame = frame->data;
    r->frame_len = r->bytes = frame->len;
    r->text = (ia3_span){text, (uint32_t) len};
    r->n_texts = 1;
    r->text_ids = ia3_alloc_array(1, sizeof *r->text_ids);
    r->text_lens = ia3_alloc_array(1, sizeof *r->text_lens);
    atomic_init(&r->cancelled, false);
    return r;
}

void
ia3_row_fail(ia3_row *row, const ia3_error *err)
{
    uint8_t *old = row->error.data;
    row->error = (ia3_writer){0};
    ia3_put_error(&row->error, err);
    free(old);
}

void
ia3_request_free(ia3_request *r, ia3_request_context *x)
{
    for (uint32_t i = 0; r->adapters && i < r->n_adapters; i++)
        if (r->adapters[i])
            ia3_adapter_cache_release(x->adapters, r->adapters[i]);
    for (uint32_t i = 0; i < r->n_sets; i++)
        if (r->sets[i])
            ia3_choice_set_release(x->sets, r->sets[i]);
    for (uint32_t i = 0; i < r->n_rows; i++) {
        free(r->rows[i].ids);
        free(r->rows[i].text);
        free(r->rows[i].error.data);
    }
    for (uint32_t i = 0; i < r->n_texts; i++)
        free(r->text_ids[i]);
    ia3_score_message_free(&r->score);
    ia3_train_message_free(&r->train);
    free(r->frame);
    free(r->adapters);
    free(r->sets);
    free(r->rows);
    free(r->scores);
    free(r->sampling);
    for (uint32_t i = 0; r->verbalizers && i < r->n_sets; i++)
        free(r->verbalizers[i].first);
    free(r->verbalizers);
    free(r->examples);
    free(r->right);
    free(r->text_ids);
    free(r->text_lens);
    for (uint32_t k = 0; k < r->n_runs; k++) {
        free(r->runs[k].examples);
        free(r->runs[k].weights);
        free(r->runs[k].result.adapter);
        free(r->runs[k].result.metrics);
        free(r->runs[k].result.state);
    }
    free(r->runs);
    free(r->state);
    ia3_baseline_free(r);
    free(r);
}

/* Of a multi-label set, the score of a label is that of its answer "yes" less that of "no". */
static void
put_scores(ia3_writer *w, const ia3_choices *choices, const double *scores)
{
    const int branches = choices->given ? 2 : 1;
    ia3_put_u32(w, (uint32_t) (choices->n / branches));
    for (int k = 0; k < choices->n; k += branches)
        ia3_put_f64(w, choices->given ? scores[k] - scores[k + 1] : scores[k]);
}

static void
put_rows(ia3_writer *w, const ia3_request *r)
{
    double flops = 0;
    for (uint32_t i = 0; i < r->n_rows; i++) {
        const ia3_row *row = &r->rows[i];
        flops += row->flops;
        ia3_put_u8(w, !ia3_row_failed(row));
        if (row->error.len > 0)
            ia3_put_bytes(w, row->error.data, row->error.len);
        else if (row->set == NULL)
            ia3_put_str(w, row->text, row->text_len);
        else if (row->set->choices == NULL)
            ia3_put_error(w, &row->set->error);
        else
            put_scores(w, row->set->choices, row->scores);
    }
    ia3_put_f64(w, flops);
}

static void
put_runs(ia3_writer *w, const ia3_request *r)
{
    if (r->type == IA3_TRAIN_RUNS)
        ia3_put_u32(w, r->n_runs);
    for (uint32_t k = 0; k < r->n_runs; k++) {
        const ia3_train_result *result = &r->runs[k].result;
        ia3_put_str(w, (const char *) result->adapter, result->adapter_len);
        ia3_put_str(w, result->metrics, strlen(result->metrics));
        ia3_put_u32(w, r->runs[k].n);
        if (r->type == IA3_TRAIN)
            ia3_put_str(w, (const char *) result->state, result->state_len);
    }
}

static Ia3Message
reply_type(Ia3Message request)
{
    switch (request) {
    case IA3_SCORE:
        return IA3_SCORE_OK;
    case IA3_GENERATE:
        return IA3_GENERATE_OK;
    case IA3_TRAIN:
        return IA3_TRAIN_OK;
    case IA3_TRAIN_RUNS:
        return IA3_TRAIN_RUNS_OK;
    case IA3_TOKENIZE:
        return IA3_TOKENIZE_OK;
    case IA3_LINEAR:
        return IA3_LINEAR_OK;
    default:
        return IA3_OK;
    }
}

void
ia3_put_tokens(ia3_writer *w, const ia3_tokenizer *tok, const int32_t *ids, int n)
{
    ia3_put_u32(w, (uint32_t) n);
    for (int i = 0; i < n; i++) {
        char buffer[64];
        const char *piece = ia3_tokenizer_piece(tok, ids[i], buffer);
        ia3_put_u32(w, (uint32_t) ids[i]);
        ia3_put_str(w, piece, strlen(piece));
    }
}

void
ia3_request_reply(ia3_writer *w, const ia3_request *r, const ia3_tokenizer *tok)
{
    if (r->error.code != 0) {
        ia3_frame_error(w, r->id, &r->error);
        return;
    }
    ia3_frame_begin(w, reply_type(r->type), r->id);
    if (ia3_request_has_rows(r))
        put_rows(w, r);
    else if (ia3_request_trains(r))
        put_runs(w, r);
    else if (r->type == IA3_TOKENIZE)
        ia3_put_tokens(w, tok, r->text_ids[0], r->text_lens[0]);
    else if (r->type == IA3_LINEAR) {
        ia3_put_u32(w, r->linear.n);
        for (uint32_t i = 0; i < r->linear.n; i++)
            ia3_put_u32(w, r->linear.predicted[i]);
    }
    ia3_frame_finish(w);
}

/* The digest by which requests name an adapter (protocol.h). */
static void
digest_of(const uint8_t *bytes, size_t n, const char *options, size_t options_len,
          uint8_t digest[IA3_DIGEST_LEN])
{
    SHA256(bytes, n, digest);
    if (options_len == 0)
        return;
    uint8_t *both = ia3_alloc(IA3_DIGEST_LEN + options_len);
    memcpy(both, digest, IA3_DIGEST_LEN);
    memcpy(both + IA3_DIGEST_LEN, options, options_len);
    SHA256(both, IA3_DIGEST_LEN + options_len, digest);
    free(both);
}

ia3_cached_adapter *
ia3_put_adapter(ia3_request_context *x, const uint8_t *payload, size_t len, ia3_error *err)
{
    ia3_reader in = {.p = payload, .end = payload + len};
    const uint8_t *digest = ia3_get_bytes(&in, IA3_DIGEST_LEN);
    size_t name_len, options_len, n;
    const char *name = ia3_get_str(&in, &name_len), *options = ia3_get_str(&in, &options_len);
    const char *bytes = ia3_get_str(&in, &n);
    if (in.bad || in.p != in.end) {
        ia3_fail(err, IA3_E_PROTOCOL, "malformed PUT_ADAPTER message");
        return NULL;
    }
    ia3_cached_adapter *known = ia3_adapter_cache_acquire(x->adapters, digest);
    if (known)
        return known;
    uint8_t actual[IA3_DIGEST_LEN];
    digest_of((const uint8_t *) bytes, n, options, options_len, actual);
    if (memcmp(actual, digest, IA3_DIGEST_LEN) != 0) {
        ia3_fail(err, IA3_E_BAD_ADAPTER, "adapter does not match the digest it was sent with");
        return NULL;
    }
    const ia3_method *method = ia3_method_require(x->methods, name, name_len, err);
    if (method == NULL)
        return NULL;
    ia3_variant variant;
    const ia3_layout *layout = ia3_variant_read(&variant, method, options, options_len, err)
                                   ? ia3_layouts_get(x->layouts, &variant, err)
                                   : NULL;
    float *values = layout ? ia3_adapter_parse(layout, (const uint8_t *) bytes, n, err) : NULL;
    if (values == NULL) {
        ia3_layout_release(layout);
        return NULL;
    }
    const size_t weights =
        ia3_layout_replaces(layout) ? (size_t) layout->members * (size_t) x->backbone_bytes : 0;
    return ia3_adapter_cache_put(x->adapters, digest, layout, values, weights);
}
