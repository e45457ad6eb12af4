/*
 * fuzz_protocol.c
 *     Fuzzes the frame reader and the parsers of HELLO, SCORE and TRAIN with bytes from a client.
 *
 * The first byte selects the mode: 0 to 127, a stream of frames in pieces of this size; 128 to 255, a single payload of
 * SCORE or TRAIN, so that the fuzzer does not have to find valid lengths first. Everything that a parsed message points
 * to is read, so that AddressSanitizer detects pointers outside the frame.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>

#include "engine/serve/frame.h"
#include "engine/serve/parse.h"
#include "engine/model/methods/methods.h"

static volatile unsigned sink;

static void
touch(const void *p, size_t n)
{
    const uint8_t *b = p;
    for (size_t i = 0; i < n; i++)
        sink += b[i];
}

static void
touch_sets(const ia3_wire_sets *sets)
{
    for (uint32_t s = 0; s < sets->n; s++) {
        touch(sets->sets[s].raw, sets->sets[s].raw_len);
        for (uint32_t i = 0; i < sets->sets[s].n; i++) {
            const ia3_span *c = &sets->choices[sets->sets[s].first + i];
            touch(c->data, c->len);
        }
    }
}

static void
check_error(const ia3_error *err)
{
    if (err->code == 0 || err->message[0] == '\0')
        abort();
}

static void
touch_input(const ia3_wire_input *in)
{
    uint32_t from = 0;
    touch(in->text.data, in->text.len);
    if (in->tail > in->text.len)
        abort();
    for (uint32_t f = 0; f < in->n_fields; f++) {
        uint32_t begin, end;
        ia3_wire_field(in, f, &begin, &end);
        if (begin < from || end < begin || end > in->text.len)
            abort();
        from = end;
    }
}

static void
parse_score(const uint8_t *data, size_t len)
{
    ia3_score_message m;
    ia3_error err = {0};
    if (!ia3_parse_score(&m, data, len, &err)) {
        check_error(&err);
        return;
    }
    touch(m.digests, (size_t) m.n_digests * IA3_DIGEST_LEN);
    touch_sets(&m.sets);
    for (uint32_t i = 0; i < m.n_rows; i++) {
        if (m.rows[i].set >= m.sets.n || m.rows[i].adapter >= m.n_digests)
            abort();
        touch_input(&m.rows[i].input);
    }
    ia3_score_message_free(&m);
}

static void
parse_generate(const uint8_t *data, size_t len)
{
    ia3_score_message m;
    ia3_error err = {0};
    if (!ia3_parse_generate(&m, data, len, &err)) {
        check_error(&err);
        return;
    }
    touch(m.digests, (size_t) m.n_digests * IA3_DIGEST_LEN);
    for (uint32_t i = 0; i < m.n_rows; i++) {
        const ia3_sampling *s = &m.sampling[i];
        if (m.rows[i].adapter >= m.n_digests || s->max_tokens < 1 || s->max_tokens > IA3_MAX_NEW_TOKENS ||
            !(s->temperature >= 0) || s->top_k > INT32_MAX)
            abort();
        touch_input(&m.rows[i].input);
    }
    ia3_score_message_free(&m);
}

static void
check_weights(const ia3_wire_weights *weights, uint32_t n)
{
    double *values = ia3_wire_weights_read(weights), sum = 0;
    if (weights->n != 0 && weights->n != n)
        abort();
    for (uint32_t i = 0; i < weights->n; i++) {
        if (!(values[i] >= 0))
            abort();
        sum += values[i];
    }
    if (weights->n != 0 && !(sum > 0 && sum < INFINITY))
        abort();
    free(values);
}

static void
check_labels(const ia3_wire_example *x, const ia3_wire_set *set)
{
    if (!set->multi_label && x->n_labels != 1)
        abort();
    for (uint32_t k = 0; k < x->n_labels; k++)
        if (ia3_wire_example_label(x, k) >= set->n ||
            (k > 0 && ia3_wire_example_label(x, k) <= ia3_wire_example_label(x, k - 1)))
            abort();
}

static void
parse_train(Ia3Message type, const uint8_t *data, size_t len)
{
    ia3_train_message m;
    ia3_error err = {0};
    if (!ia3_parse_train(&m, type, ia3_methods, data, len, &err)) {
        check_error(&err);
        return;
    }
    touch(m.init, IA3_DIGEST_LEN);
    touch(m.state.data, m.state.len);
    touch_sets(&m.sets);
    for (uint32_t i = 0; i < m.n_examples; i++) {
        const ia3_wire_example *x = &m.examples[i];
        if (x->set >= m.sets.n || x->n_texts == 0)
            abort();
        check_labels(x, &m.sets.sets[x->set]);
        for (uint32_t t = x->first; t < x->first + x->n_texts; t++)
            touch_input(&m.inputs[t]);
    }
    if (type == IA3_TRAIN)
        check_weights(&m.weights, m.n_examples);
    for (uint32_t s = 0; s < m.sets.n; s++) {
        uint64_t sum = 0;
        for (uint32_t l = 0; l < m.sets.sets[s].n_labels; l++)
            sum += ia3_wire_set_count(&m.sets.sets[s], l);
        if (m.sets.sets[s].n_labels > 0 && sum != m.sets.sets[s].n)
            abort();
    }
    for (uint32_t k = 0; k < m.n_runs; k++) {
        for (uint32_t i = 0; i < m.runs[k].n; i++)
            if (ia3_wire_run_example(&m.runs[k], i) >= m.n_examples)
                abort();
        check_weights(&m.runs[k].weights, m.runs[k].n);
    }
    ia3_train_message_free(&m);
}

static void
handle_frame(ia3_frame *frame)
{
    char client[32];
    ia3_error err = {0};
    if (frame->type == IA3_HELLO && !ia3_parse_hello(frame->data, frame->len, client, sizeof client, &err))
        check_error(&err);
    if (frame->type == IA3_SCORE)
        parse_score(frame->data, frame->len);
    if (frame->type == IA3_GENERATE)
        parse_generate(frame->data, frame->len);
    if (frame->type == IA3_TRAIN || frame->type == IA3_TRAIN_RUNS)
        parse_train((Ia3Message) frame->type, frame->data, frame->len);
    free(frame->data);
}

static void
feed(const uint8_t *data, size_t len, size_t piece)
{
    ia3_frame_reader reader = {0};
    for (size_t at = 0; at < len;) {
        size_t n = len - at < piece ? len - at : piece;
        const uint8_t *p = data + at;
        at += n;
        while (n > 0) {
            ia3_frame frame;
            ia3_frame_status status = ia3_frame_feed(&reader, &p, &n, &frame);
            if (status == IA3_FRAME_COMPLETE)
                handle_frame(&frame);
            if (status == IA3_FRAME_BAD) {
                ia3_frame_reader_clear(&reader);
                return;
            }
        }
    }
    ia3_frame_reader_clear(&reader);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t mode = data[0];
    /* a copy of just the right size: reading one byte too many is caught */
    uint8_t *copy = malloc(size);
    memcpy(copy, data + 1, size - 1);
    uint8_t *payload = realloc(copy, size - 1 ? size - 1 : 1);
    if (mode < 128)
        feed(payload, size - 1, (size_t) mode + 1);
    else if (mode & 1)
        parse_score(payload, size - 1);
    else if (mode & 2)
        parse_generate(payload, size - 1);
    else
        parse_train(mode & 4 ? IA3_TRAIN_RUNS : IA3_TRAIN, payload, size - 1);
    free(payload);
    return 0;
}
