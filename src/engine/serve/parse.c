/*
 * parse.c
 *     Parses and checks the payloads of SCORE, GENERATE, TRAIN, TRAIN_RUNS and HELLO.
 */
#include "parse.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/wire.h"
#include "engine/base/alloc.h"

#define FIELD_BYTES 8 /* of a field in a message */

static bool
malformed(ia3_error *err, const char *what)
{
    return ia3_fail(err, IA3_E_PROTOCOL, "malformed %s message", what);
}

static bool
too_many(ia3_error *err, const char *what, uint32_t n, uint32_t limit)
{
    return ia3_fail(err, IA3_E_TOO_LONG, "request has %u %s, but the limit is %u", n, what, limit);
}

static ia3_span
get_span(ia3_reader *r)
{
    size_t n;
    ia3_span s;
    s.data = ia3_get_str(r, &n);
    s.len = (uint32_t) n;
    return s;
}

static ia3_wire_input
get_input(ia3_reader *r)
{
    ia3_wire_input in = {.text = get_span(r)};
    in.tail = ia3_get_u32(r);
    in.n_fields = ia3_get_count(r, FIELD_BYTES);
    in.fields = ia3_get_bytes(r, (size_t) in.n_fields * FIELD_BYTES);
    return in;
}

void
ia3_wire_field(const ia3_wire_input *input, uint32_t f, uint32_t *begin, uint32_t *end)
{
    const uint8_t *at = input->fields + (size_t) f * FIELD_BYTES;
    ia3_reader r = {.p = at, .end = at + FIELD_BYTES};
    *begin = ia3_get_u32(&r);
    *end = ia3_get_u32(&r);
}

/* `what` and `number` say which input it is. */
static bool
check_input(const ia3_wire_input *in, const char *what, uint32_t number, ia3_error *err)
{
    uint32_t from = 0;
    if (in->tail > in->text.len)
        return ia3_fail(err, IA3_E_INVALID, "%s %u has its tail at byte %u of %u", what, number, in->tail,
                        in->text.len);
    for (uint32_t f = 0; f < in->n_fields; f++) {
        uint32_t begin, end;
        ia3_wire_field(in, f, &begin, &end);
        if (begin < from || end < begin || end > in->text.len)
            return ia3_fail(err, IA3_E_INVALID, "%s %u has a field from byte %u to %u of %u", what, number,
                            begin, end, in->text.len);
        from = end;
    }
    return true;
}

static bool
check_max_tokens(uint32_t max, ia3_error *err)
{
    if (max >= 1 && max <= IA3_MAX_INPUT_TOKENS)
        return true;
    return ia3_fail(err, IA3_E_INVALID, "max_input_tokens must be between 1 and %u", IA3_MAX_INPUT_TOKENS);
}

bool
ia3_digest_is_zero(const uint8_t digest[IA3_DIGEST_LEN])
{
    for (int i = 0; i < IA3_DIGEST_LEN; i++)
        if (digest[i])
            return false;
    return true;
}

/* list<u8 kind, list<str choice>> */
static bool
parse_sets(ia3_reader *r, ia3_wire_sets *sets, const char *what, ia3_error *err)
{
    uint32_t n = ia3_get_count(r, 5);
    if (r->bad)
        return malformed(err, what);
    if (n > IA3_MAX_SETS)
        return too_many(err, "choice sets", n, IA3_MAX_SETS);
    sets->sets = ia3_alloc_array(n ? n : 1, sizeof *sets->sets);
    sets->n = n;
    uint32_t total = 0, cap = 0;
    for (uint32_t s = 0; s < n; s++) {
        ia3_wire_set *set = &sets->sets[s];
        set->raw = r->p;
        set->first = total;
        uint8_t kind = ia3_get_u8(r);
        set->multi_label = kind == 1;
        set->n = ia3_get_count(r, 4);
        if (r->bad || kind > 1)
            return malformed(err, what);
        if (set->n > IA3_MAX_CHOICES - total)
            return too_many(err, "choices", total + set->n, IA3_MAX_CHOICES);
        if (total + set->n > cap) {
            cap = total + set->n > 2 * cap ? total + set->n : 2 * cap;
            sets->choices = ia3_realloc(sets->choices, cap * sizeof *sets->choices);
        }
        for (uint32_t i = 0; i < set->n; i++)
            sets->choices[total++] = get_span(r);
        if (r->bad)
            return malformed(err, what);
        set->raw_len = (size_t) (r->p - set->raw);
    }
    return true;
}

static void
free_sets(ia3_wire_sets *sets)
{
    free(sets->sets);
    free(sets->choices);
    memset(sets, 0, sizeof *sets);
}

static bool
finite_from(double v, double low)
{
    return isfinite(v) && v >= low;
}

static bool
parse_score_rows(ia3_reader *r, ia3_score_message *m, ia3_error *err)
{
    uint32_t n = ia3_get_count(r, 20);
    if (r->bad)
        return malformed(err, "SCORE");
    if (n > IA3_MAX_ROWS)
        return too_many(err, "rows", n, IA3_MAX_ROWS);
    m->rows = ia3_alloc_array(n ? n : 1, sizeof *m->rows);
    m->n_rows = n;
    for (uint32_t i = 0; i < n; i++) {
        ia3_wire_row *row = &m->rows[i];
        row->adapter = ia3_get_u32(r);
        row->set = ia3_get_u32(r);
        row->input = get_input(r);
    }
    if (r->bad || r->p != r->end)
        return malformed(err, "SCORE");
    return true;
}

/* Checks what rows of SCORE and GENERATE have in common. */
static bool
check_row(const ia3_score_message *m, uint32_t i, ia3_error *err)
{
    const ia3_wire_row *row = &m->rows[i];
    if (row->adapter >= m->n_digests)
        return ia3_fail(err, IA3_E_INVALID, "row %u refers to adapter %u of %u", i, row->adapter,
                        m->n_digests);
    return check_input(&row->input, "row", i, err);
}

static bool
check_answer(uint64_t bytes, ia3_error *err)
{
    if (bytes + 5 + 8 <= IA3_MAX_FRAME) /* with the frame's type and request, and the FLOPs */
        return true;
    ia3_fail(err, IA3_E_TOO_LONG, "reply would have %llu bytes, but the limit is %u",
             (unsigned long long) bytes, IA3_MAX_FRAME);
    return ia3_fail_hint(err, "Request fewer rows at a time.");
}

/* Checks the rows' references, and that the reply will fit in a frame. */
static bool
check_score_rows(const ia3_score_message *m, ia3_error *err)
{
    uint64_t answer = 0;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        const ia3_wire_row *row = &m->rows[i];
        if (!check_row(m, i, err))
            return false;
        if (row->set >= m->sets.n)
            return ia3_fail(err, IA3_E_INVALID, "row %u refers to choice set %u of %u", i, row->set,
                            m->sets.n);
        answer += 5 + 8 * (uint64_t) m->sets.sets[row->set].n;
    }
    return check_answer(answer, err);
}

/* Parses max_input_tokens and the adapters. */
static bool
parse_score_head(ia3_reader *r, ia3_score_message *m, const char *what, ia3_error *err)
{
    memset(m, 0, sizeof *m);
    m->max_input_tokens = ia3_get_u32(r);
    m->n_digests = ia3_get_count(r, IA3_DIGEST_LEN);
    m->digests = ia3_get_bytes(r, (size_t) m->n_digests * IA3_DIGEST_LEN);
    if (r->bad)
        return malformed(err, what);
    if (m->n_digests > IA3_MAX_DIGESTS)
        return too_many(err, "adapters", m->n_digests, IA3_MAX_DIGESTS);
    return true;
}

bool
ia3_parse_score(ia3_score_message *m, const uint8_t *payload, size_t len, ia3_error *err)
{
    ia3_reader r = {.p = payload, .end = payload + len};
    if (!parse_score_head(&r, m, "SCORE", err))
        return false;
    if (parse_sets(&r, &m->sets, "SCORE", err) && parse_score_rows(&r, m, err) &&
        check_max_tokens(m->max_input_tokens, err) && check_score_rows(m, err))
        return true;
    ia3_score_message_free(m);
    return false;
}

static bool
parse_generate_rows(ia3_reader *r, ia3_score_message *m, ia3_error *err)
{
    uint32_t n = ia3_get_count(r, 40);
    if (r->bad)
        return malformed(err, "GENERATE");
    if (n > IA3_MAX_ROWS)
        return too_many(err, "rows", n, IA3_MAX_ROWS);
    m->rows = ia3_alloc_array(n ? n : 1, sizeof *m->rows);
    m->sampling = ia3_alloc_array(n ? n : 1, sizeof *m->sampling);
    m->n_rows = n;
    for (uint32_t i = 0; i < n; i++) {
        m->rows[i].adapter = ia3_get_u32(r);
        m->rows[i].input = get_input(r);
        m->sampling[i].max_tokens = ia3_get_u32(r);
        m->sampling[i].temperature = ia3_get_f64(r);
        m->sampling[i].top_k = ia3_get_u32(r);
        m->sampling[i].seed = ia3_get_u64(r);
    }
    if (r->bad || r->p != r->end)
        return malformed(err, "GENERATE");
    return true;
}

static bool
check_generate_rows(const ia3_score_message *m, ia3_error *err)
{
    uint64_t answer = 0;
    for (uint32_t i = 0; i < m->n_rows; i++) {
        const ia3_sampling *s = &m->sampling[i];
        if (!check_row(m, i, err))
            return false;
        if (s->max_tokens < 1 || s->max_tokens > IA3_MAX_NEW_TOKENS)
            return ia3_fail(err, IA3_E_INVALID, "max_tokens must be between 1 and %d", IA3_MAX_NEW_TOKENS);
        if (!finite_from(s->temperature, 0))
            return ia3_fail(err, IA3_E_INVALID, "temperature must be zero or a positive number");
        if (s->top_k > INT32_MAX)
            return ia3_fail(err, IA3_E_INVALID, "top_k must be between 0 and %d", INT32_MAX);
        answer += 5 + IA3_TOKEN_BYTES * (uint64_t) s->max_tokens;
    }
    return check_answer(answer, err);
}

bool
ia3_parse_generate(ia3_score_message *m, const uint8_t *payload, size_t len, ia3_error *err)
{
    ia3_reader r = {.p = payload, .end = payload + len};
    if (!parse_score_head(&r, m, "GENERATE", err))
        return false;
    if (parse_generate_rows(&r, m, err) && check_max_tokens(m->max_input_tokens, err) &&
        check_generate_rows(m, err))
        return true;
    ia3_score_message_free(m);
    return false;
}

void
ia3_score_message_free(ia3_score_message *m)
{
    free_sets(&m->sets);
    free(m->rows);
    free(m->sampling);
    memset(m, 0, sizeof *m);
}

/* Reads a number; one that does not fit in an int becomes a value for which ia3_recipe_check fails. */
static int
get_positive_int(ia3_reader *r)
{
    uint32_t v = ia3_get_u32(r);
    return v > 0x7fffffff ? -1 : (int) v;
}

/* A method's name and its options. */
static bool
parse_method(ia3_reader *r, ia3_variant *variant, const ia3_method *const *methods, ia3_error *err)
{
    ia3_span name = get_span(r), options = get_span(r);
    if (r->bad)
        return malformed(err, "TRAIN");
    const ia3_method *method = ia3_method_require(methods, name.data, name.len, err);
    return method && ia3_variant_read(variant, method, options.data, options.len, err);
}

static bool
parse_recipe(ia3_reader *r, ia3_train_message *m, const ia3_method *const *methods, ia3_error *err)
{
    ia3_recipe *c = &m->recipe;
    m->max_input_tokens = ia3_get_u32(r);
    c->steps = get_positive_int(r);
    c->batch_size = get_positive_int(r);
    c->learning_rate = ia3_get_f64(r);
    c->warmup_ratio = ia3_get_f64(r);
    c->lm_weight = ia3_get_f64(r);
    c->unlikelihood_weight = ia3_get_f64(r);
    c->length_norm_weight = ia3_get_f64(r);
    c->dropout = ia3_get_f64(r);
    c->seed = ia3_get_u64(r);
    c->averaging = (Ia3LossAveraging) ia3_get_u8(r);
    c->optimizer = (Ia3Optimizer) ia3_get_u8(r);
    c->weight_decay = ia3_get_f64(r);
    c->ema = ia3_get_f64(r);
    if (!parse_method(r, &c->variant, methods, err))
        return false;
    m->init = ia3_get_bytes(r, IA3_DIGEST_LEN);
    c->stop = get_positive_int(r);
    m->state = get_span(r);
    return !r->bad || malformed(err, "TRAIN");
}

uint32_t
ia3_wire_set_count(const ia3_wire_set *set, uint32_t label)
{
    const uint8_t *at = set->counts + (size_t) label * sizeof(uint32_t);
    ia3_reader r = {.p = at, .end = at + sizeof(uint32_t)};
    return ia3_get_u32(&r);
}

/* How many choices of each set are verbalizers of the same label; for no set, or for all of them. */
static bool
parse_verbalizers(ia3_reader *r, ia3_train_message *m, ia3_error *err)
{
    uint32_t n = ia3_get_count(r, 4);
    if (r->bad || (n != 0 && n != m->sets.n))
        return malformed(err, "TRAIN");
    for (uint32_t s = 0; s < n; s++) {
        ia3_wire_set *set = &m->sets.sets[s];
        set->n_labels = ia3_get_count(r, sizeof(uint32_t));
        set->counts = ia3_get_bytes(r, (size_t) set->n_labels * sizeof(uint32_t));
    }
    return !r->bad || malformed(err, "TRAIN");
}

/* Each label has a verbalizer, and all of them together are the choices. */
static bool
check_verbalizers(const ia3_wire_sets *sets, ia3_error *err)
{
    for (uint32_t s = 0; s < sets->n; s++) {
        const ia3_wire_set *set = &sets->sets[s];
        uint64_t sum = 0;
        for (uint32_t l = 0; l < set->n_labels; l++) {
            if (ia3_wire_set_count(set, l) == 0)
                return ia3_fail(err, IA3_E_INVALID, "label %u of choice set %u has no verbalizer", l, s);
            sum += ia3_wire_set_count(set, l);
        }
        if (set->n_labels > 0 && sum != set->n)
            return ia3_fail(err, IA3_E_INVALID, "choice set %u has %llu verbalizers for %u choices", s,
                            (unsigned long long) sum, set->n);
    }
    return true;
}

uint32_t
ia3_wire_example_label(const ia3_wire_example *example, uint32_t i)
{
    const uint8_t *at = example->labels + (size_t) i * sizeof(uint32_t);
    ia3_reader r = {.p = at, .end = at + sizeof(uint32_t)};
    return ia3_get_u32(&r);
}

static bool
parse_examples(ia3_reader *r, ia3_train_message *m, ia3_error *err)
{
    uint32_t n = ia3_get_count(r, 12);
    if (r->bad)
        return malformed(err, "TRAIN");
    if (n > IA3_MAX_TEXTS)
        return too_many(err, "examples", n, IA3_MAX_TEXTS);
    m->examples = ia3_alloc_array(n ? n : 1, sizeof *m->examples);
    m->n_examples = n;
    uint32_t cap = 0;
    for (uint32_t i = 0; i < n; i++) {
        ia3_wire_example *x = &m->examples[i];
        x->set = ia3_get_u32(r);
        x->n_labels = ia3_get_count(r, sizeof(uint32_t));
        x->labels = ia3_get_bytes(r, (size_t) x->n_labels * sizeof(uint32_t));
        x->first = m->n_texts;
        x->n_texts = ia3_get_count(r, 12);
        if (r->bad)
            return malformed(err, "TRAIN");
        if (x->n_texts > IA3_MAX_TEXTS - m->n_texts)
            return too_many(err, "rendered texts", m->n_texts + x->n_texts, IA3_MAX_TEXTS);
        uint32_t need = m->n_texts + x->n_texts;
        if (need > cap) {
            cap = need > 2 * cap ? need : 2 * cap;
            m->inputs = ia3_realloc(m->inputs, cap * sizeof *m->inputs);
        }
        for (uint32_t t = 0; t < x->n_texts; t++)
            m->inputs[m->n_texts++] = get_input(r);
    }
    return !r->bad || malformed(err, "TRAIN");
}

uint32_t
ia3_wire_run_example(const ia3_wire_run *run, uint32_t i)
{
    const uint8_t *at = run->examples + (size_t) i * sizeof(uint32_t);
    ia3_reader r = {.p = at, .end = at + sizeof(uint32_t)};
    return ia3_get_u32(&r);
}

/* Reads a list of weights, where it lies in the frame. */
static void
get_weights(ia3_reader *r, ia3_wire_weights *weights)
{
    weights->n = ia3_get_count(r, sizeof(double));
    weights->raw = ia3_get_bytes(r, (size_t) weights->n * sizeof(double));
}

double *
ia3_wire_weights_read(const ia3_wire_weights *weights)
{
    if (weights->n == 0)
        return NULL;
    double *values = ia3_alloc_array(weights->n, sizeof *values);
    ia3_reader r = {.p = weights->raw, .end = weights->raw + weights->n * sizeof(double)};
    for (uint32_t i = 0; i < weights->n; i++)
        values[i] = ia3_get_f64(&r);
    return values;
}

static bool
parse_weights(ia3_reader *r, ia3_train_message *m, ia3_error *err)
{
    get_weights(r, &m->weights);
    return !r->bad || malformed(err, "TRAIN");
}

static bool
parse_runs(ia3_reader *r, ia3_train_message *m, ia3_error *err)
{
    uint32_t n = ia3_get_count(r, 16);
    if (r->bad)
        return malformed(err, "TRAIN_RUNS");
    if (n > IA3_MAX_RUNS)
        return too_many(err, "training runs", n, IA3_MAX_RUNS);
    m->runs = ia3_alloc_array(n ? n : 1, sizeof *m->runs);
    m->n_runs = n;
    for (uint32_t i = 0; i < n; i++) {
        ia3_wire_run *run = &m->runs[i];
        run->seed = ia3_get_u64(r);
        run->n = ia3_get_count(r, sizeof(uint32_t));
        run->examples = ia3_get_bytes(r, (size_t) run->n * sizeof(uint32_t));
        get_weights(r, &run->weights);
    }
    return !r->bad || malformed(err, "TRAIN_RUNS");
}

static bool
parse_early_stopping(ia3_reader *r, ia3_train_message *m, ia3_error *err)
{
    m->recipe.early_stopping = (Ia3EarlyStopping) ia3_get_u8(r);
    return !r->bad || malformed(err, "TRAIN");
}

/* Checks the weights of n examples. */
static bool
check_weights(const ia3_wire_weights *weights, uint32_t n, ia3_error *err)
{
    if (weights->n == 0)
        return true;
    if (weights->n != n)
        return ia3_fail(err, IA3_E_INVALID, "there are %u weights for %u examples", weights->n, n);
    double *values = ia3_wire_weights_read(weights);
    bool ok = ia3_recipe_check_weights(values, n, err);
    free(values);
    return ok;
}

static bool
check_runs(const ia3_train_message *m, ia3_error *err)
{
    if (m->n_runs == 0)
        return ia3_fail(err, IA3_E_INVALID, "there are no training runs");
    if (m->recipe.stop != 0 || m->state.len > 0)
        return ia3_fail(err, IA3_E_INVALID, "several training runs cannot be paused");
    for (uint32_t k = 0; k < m->n_runs; k++) {
        const ia3_wire_run *run = &m->runs[k];
        if (run->n == 0)
            return ia3_fail(err, IA3_E_INVALID, "training run %u has no examples", k);
        for (uint32_t i = 0; i < run->n; i++)
            if (ia3_wire_run_example(run, i) >= m->n_examples)
                return ia3_fail(err, IA3_E_INVALID, "training run %u refers to example %u of %u", k,
                                ia3_wire_run_example(run, i), m->n_examples);
        if (!check_weights(&run->weights, run->n, err))
            return false;
    }
    return true;
}

/* Checks the labels of example i. */
static bool
check_labels(const ia3_wire_example *x, const ia3_wire_set *set, uint32_t i, ia3_error *err)
{
    const uint32_t labels = set->n_labels ? set->n_labels : set->n;
    if (!set->multi_label && x->n_labels != 1)
        return ia3_fail(err, IA3_E_INVALID, "example %u has %u labels instead of one", i, x->n_labels);
    for (uint32_t k = 0; k < x->n_labels; k++) {
        const uint32_t label = ia3_wire_example_label(x, k);
        if (label >= labels)
            return ia3_fail(err, IA3_E_INVALID, "example %u has label %u of %u choices", i, label, labels);
        if (k > 0 && label <= ia3_wire_example_label(x, k - 1))
            return ia3_fail(err, IA3_E_INVALID, "the labels of example %u are not in ascending order", i);
    }
    return true;
}

static bool
check_examples(const ia3_train_message *m, ia3_error *err)
{
    if (m->n_examples == 0)
        return ia3_fail(err, IA3_E_INVALID, "there are no examples to train on");
    for (uint32_t i = 0; i < m->n_examples; i++) {
        const ia3_wire_example *x = &m->examples[i];
        if (x->set >= m->sets.n)
            return ia3_fail(err, IA3_E_INVALID, "example %u refers to choice set %u of %u", i, x->set,
                            m->sets.n);
        const ia3_wire_set *set = &m->sets.sets[x->set];
        if (!check_labels(x, set, i, err))
            return false;
        if (x->n_texts == 0)
            return ia3_fail(err, IA3_E_INVALID, "example %u has no text", i);
        for (uint32_t t = x->first; t < x->first + x->n_texts; t++)
            if (!check_input(&m->inputs[t], "example", i, err))
                return false;
    }
    return true;
}

bool
ia3_parse_train(ia3_train_message *m, Ia3Message type, const ia3_method *const *methods,
                const uint8_t *payload, size_t len, ia3_error *err)
{
    bool has_runs = type == IA3_TRAIN_RUNS;
    memset(m, 0, sizeof *m);
    ia3_reader r = {.p = payload, .end = payload + len};
    if (!parse_recipe(&r, m, methods, err))
        return false;
    if (parse_sets(&r, &m->sets, "TRAIN", err) && parse_verbalizers(&r, m, err) &&
        parse_examples(&r, m, err) && (has_runs ? parse_runs(&r, m, err) : parse_weights(&r, m, err)) &&
        parse_early_stopping(&r, m, err) && (r.p == r.end || malformed(err, "TRAIN")) &&
        check_max_tokens(m->max_input_tokens, err) && ia3_recipe_check(&m->recipe, err) &&
        check_verbalizers(&m->sets, err) && check_examples(m, err) &&
        (has_runs ? check_runs(m, err) : check_weights(&m->weights, m->n_examples, err)))
        return true;
    ia3_train_message_free(m);
    return false;
}

void
ia3_train_message_free(ia3_train_message *m)
{
    free_sets(&m->sets);
    free(m->examples);
    free(m->inputs);
    free(m->runs);
    memset(m, 0, sizeof *m);
}

bool
ia3_parse_hello(const uint8_t *payload, size_t len, char *client, size_t size, ia3_error *err)
{
    ia3_reader r = {.p = payload, .end = payload + len};
    uint32_t magic = ia3_get_u32(&r);
    uint32_t version = ia3_get_u32(&r);
    if (r.bad || magic != IA3_PROTOCOL_MAGIC)
        return malformed(err, "HELLO");
    if (version != IA3_PROTOCOL_VERSION) {
        ia3_fail(err, IA3_E_PROTOCOL, "protocol version %u is not supported", version);
        ia3_fail_detail(err, "The engine speaks version %d.", IA3_PROTOCOL_VERSION);
        return ia3_fail_hint(err, "Extension and engine must come from the same release of ia3.");
    }
    ia3_span name = get_span(&r);
    if (r.bad || r.p != r.end)
        return malformed(err, "HELLO");
    size_t k = 0;
    for (uint32_t i = 0; i < name.len && k + 1 < size; i++)
        client[k++] = name.data[i] >= 32 && name.data[i] < 127 ? name.data[i] : '?';
    client[k] = '\0';
    return true;
}
