/*
 * engine_requests.h
 *     Builds SCORE, TRAIN and TRAIN_RUNS requests for tests.
 */
#ifndef IA3_ENGINE_REQUESTS_H
#define IA3_ENGINE_REQUESTS_H

#include "engine/files/input.h"
#include "engine_client.h"

typedef struct test_row {
    const char *text;
    uint32_t tail; /* 0 = none: the end of the text */
    uint32_t adapter, set;
    uint32_t n_fields;
    const ia3_field *fields;
} test_row;

typedef struct test_rows {
    uint32_t max_input_tokens; /* 0 = 256 */
    int n_digests;             /* 0 = one, the bare backbone */
    const uint8_t *digests[8];
    const char *const *sets[8]; /* NULL-terminated lists, up to the first NULL */
    uint32_t multi_label;       /* bit i: set i is a multi-label set */
    int n_rows;
    test_row rows[64];
} test_rows;

/* Writes an input; tail 0 = none. */
void test_put_input(ia3_writer *w, const char *text, uint32_t tail, const ia3_field *fields,
                    uint32_t n_fields);

/* Writes a choice set; the choices end with NULL. */
void test_put_set(ia3_writer *w, const char *const *choices, bool multi_label);

/* Writes the request; test_call or test_send sends it. */
void test_put_rows(test_client *c, const test_rows *rows);
/* Reads one row of SCORE_OK, which must be ok and have n scores. */
void test_get_scores(test_client *c, double *scores, int n);
/* Reads what follows the rows of SCORE_OK or GENERATE_OK, which must be its end: the FLOPs that they took. */
double test_get_flops(test_client *c);

typedef struct test_recipe {
    uint32_t max_input_tokens, steps, batch_size;
    double learning_rate, warmup_ratio, lm_weight, unlikelihood_weight, length_norm_weight, dropout;
    uint64_t seed;
    uint8_t averaging, optimizer;
    double weight_decay, ema;
    const char *method, *options; /* NULL = "ia3", "" */
    const uint8_t *init;          /* NULL = ones */
    uint32_t stop;
    const uint8_t *state;
    size_t state_len;
    uint32_t label; /* of the first example: to ask for one that does not exist */
    bool no_examples, no_text;
    const struct test_run *only; /* NULL = all examples, else those of this run */
    const struct test_run *runs; /* [n_runs]; NULL = TRAIN, else TRAIN_RUNS */
    uint32_t n_runs;
    const double *weights; /* [n_weights] of the examples of TRAIN */
    uint32_t n_weights;
    uint8_t early_stopping;
    const char *const *choices;  /* NULL = test_training_choices */
    const uint32_t *verbalizers; /* [n_labels] how many of the choices stand for each label */
    uint32_t n_labels;           /* 0 = each choice is a label */
    bool multi_label;            /* the choices are a multi-label set */
    uint32_t right[4];           /* bit l: label l of it is right for the example */
} test_recipe;

/* A run of TRAIN_RUNS. */
typedef struct test_run {
    uint64_t seed;
    uint32_t n, examples[4];
    uint32_t n_weights;
    double weights[4];
} test_run;

/* Four examples, two labels. */
extern const char *const test_training_texts[4];
extern const int test_training_labels[4];
extern const char *const test_training_choices[];
test_recipe test_default_recipe(void);
void test_put_training(test_client *c, const test_recipe *recipe);

#endif
