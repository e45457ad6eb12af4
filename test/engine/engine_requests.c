/*
 * engine_requests.c
 *     Writes SCORE and TRAIN requests and reads rows of SCORE_OK.
 */
#include "engine_requests.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

void
test_put_set(ia3_writer *w, const char *const *choices, bool multi_label)
{
    uint32_t n = 0;
    while (choices[n])
        n++;
    ia3_put_u8(w, multi_label);
    ia3_put_u32(w, n);
    for (uint32_t i = 0; i < n; i++)
        test_put_text(w, choices[i]);
}

void
test_put_input(ia3_writer *w, const char *text, uint32_t tail, const ia3_field *fields, uint32_t n_fields)
{
    test_put_text(w, text);
    ia3_put_u32(w, tail ? tail : (uint32_t) strlen(text));
    ia3_put_u32(w, n_fields);
    for (uint32_t f = 0; f < n_fields; f++) {
        ia3_put_u32(w, fields[f].begin);
        ia3_put_u32(w, fields[f].end);
    }
}

void
test_put_rows(test_client *c, const test_rows *rows)
{
    static const uint8_t bare[IA3_DIGEST_LEN];
    ia3_writer *w = test_begin(c, IA3_SCORE);
    ia3_put_u32(w, rows->max_input_tokens ? rows->max_input_tokens : 256);
    ia3_put_u32(w, rows->n_digests ? (uint32_t) rows->n_digests : 1);
    if (rows->n_digests == 0)
        ia3_put_bytes(w, bare, sizeof bare);
    for (int i = 0; i < rows->n_digests; i++)
        ia3_put_bytes(w, rows->digests[i], IA3_DIGEST_LEN);
    uint32_t n_sets = 0;
    while (n_sets < 8 && rows->sets[n_sets])
        n_sets++;
    ia3_put_u32(w, n_sets);
    for (uint32_t i = 0; i < n_sets; i++)
        test_put_set(w, rows->sets[i], rows->multi_label & 1u << i);
    ia3_put_u32(w, (uint32_t) rows->n_rows);
    for (int i = 0; i < rows->n_rows; i++) {
        const test_row *row = &rows->rows[i];
        ia3_put_u32(w, row->adapter);
        ia3_put_u32(w, row->set);
        test_put_input(w, row->text, row->tail, row->fields, row->n_fields);
    }
}

double
test_get_flops(test_client *c)
{
    double flops = ia3_get_f64(&c->reader);
    assert_true(!c->reader.bad && c->reader.p == c->reader.end);
    return flops;
}

void
test_get_scores(test_client *c, double *scores, int n)
{
    assert_int_equal(ia3_get_u8(&c->reader), 1);
    assert_int_equal(ia3_get_u32(&c->reader), n);
    for (int i = 0; i < n; i++)
        scores[i] = ia3_get_f64(&c->reader);
    assert_false(c->reader.bad);
}

const char *const test_training_texts[4] = {"the soup was cold and the waiter rude",
                                            "best pizza in town, lovely place", "never again, awful food",
                                            "we had a wonderful evening"};
const int test_training_labels[4] = {1, 0, 1, 0};
const char *const test_training_choices[] = {"good", "bad", NULL};

test_recipe
test_default_recipe(void)
{
    return (test_recipe){.max_input_tokens = 256,
                         .steps = 10,
                         .batch_size = 4,
                         .learning_rate = 3e-3,
                         .warmup_ratio = 0.06,
                         .lm_weight = 1,
                         .unlikelihood_weight = 1,
                         .length_norm_weight = 1,
                         .dropout = -1,
                         .seed = 42,
                         .label = 1};
}

static void
put_weights(ia3_writer *w, const double *weights, uint32_t n)
{
    ia3_put_u32(w, n);
    for (uint32_t i = 0; i < n; i++)
        ia3_put_f64(w, weights[i]);
}

/* Of a multi-label set, the labels whose bits are set. */
static void
put_labels(ia3_writer *w, const test_recipe *r, uint32_t example)
{
    uint32_t labels[32], n = 0;
    if (!r->multi_label)
        labels[n++] = example == 0 ? r->label : (uint32_t) test_training_labels[example];
    for (uint32_t l = 0; r->multi_label && l < 32; l++)
        if (r->right[example] & 1u << l)
            labels[n++] = l;
    ia3_put_u32(w, n);
    for (uint32_t l = 0; l < n; l++)
        ia3_put_u32(w, labels[l]);
}

void
test_put_training(test_client *c, const test_recipe *r)
{
    static const uint8_t ones[IA3_DIGEST_LEN];
    ia3_writer *w = test_begin(c, r->runs ? IA3_TRAIN_RUNS : IA3_TRAIN);
    ia3_put_u32(w, r->max_input_tokens);
    ia3_put_u32(w, r->steps);
    ia3_put_u32(w, r->batch_size);
    ia3_put_f64(w, r->learning_rate);
    ia3_put_f64(w, r->warmup_ratio);
    ia3_put_f64(w, r->lm_weight);
    ia3_put_f64(w, r->unlikelihood_weight);
    ia3_put_f64(w, r->length_norm_weight);
    ia3_put_f64(w, r->dropout);
    ia3_put_u64(w, r->seed);
    ia3_put_u8(w, r->averaging);
    ia3_put_u8(w, r->optimizer);
    ia3_put_f64(w, r->weight_decay);
    ia3_put_f64(w, r->ema);
    test_put_text(w, r->method ? r->method : "ia3");
    test_put_text(w, r->options ? r->options : "");
    ia3_put_bytes(w, r->init ? r->init : ones, IA3_DIGEST_LEN);
    ia3_put_u32(w, r->stop);
    ia3_put_str(w, (const char *) r->state, r->state_len);
    ia3_put_u32(w, 1);
    test_put_set(w, r->choices ? r->choices : test_training_choices, r->multi_label);
    ia3_put_u32(w, r->n_labels ? 1 : 0);
    if (r->n_labels)
        ia3_put_u32(w, r->n_labels);
    for (uint32_t l = 0; l < r->n_labels; l++)
        ia3_put_u32(w, r->verbalizers[l]);
    uint32_t n = r->no_examples ? 0 : r->only ? r->only->n : 4;
    ia3_put_u32(w, n);
    for (uint32_t k = 0; k < n; k++) {
        uint32_t i = r->only ? r->only->examples[k] : k;
        ia3_put_u32(w, 0);
        put_labels(w, r, i);
        ia3_put_u32(w, r->no_text ? 0 : 1);
        if (r->no_text)
            continue;
        test_put_input(w, test_training_texts[i], 0, NULL, 0);
    }
    if (r->runs)
        ia3_put_u32(w, r->n_runs);
    else
        put_weights(w, r->only ? r->only->weights : r->weights, r->only ? r->only->n_weights : r->n_weights);
    for (uint32_t k = 0; r->runs && k < r->n_runs; k++) {
        ia3_put_u64(w, r->runs[k].seed);
        ia3_put_u32(w, r->runs[k].n);
        for (uint32_t i = 0; i < r->runs[k].n; i++)
            ia3_put_u32(w, r->runs[k].examples[i]);
        put_weights(w, r->runs[k].weights, r->runs[k].n_weights);
    }
    ia3_put_u8(w, r->early_stopping);
}
