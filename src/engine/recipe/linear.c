/*
 * linear.c
 *     A baseline that needs no backbone: a bag of words with logistic regression.
 */
#include "linear.h"

#include <linear.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

#define TOLERANCE 1e-4

static void
print_nothing(const char *text)
{
    (void) text;
}

static int
compare_words(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *) a, y = *(const uint32_t *) b;
    return x < y ? -1 : x > y;
}

/* The features of a row, as liblinear reads them: numbered from 1, ascending, up to one with the number -1. */
static struct feature_node *
put_row(struct feature_node *at, ia3_linear_row *row, uint32_t n_words)
{
    qsort(row->words, row->n, sizeof *row->words, compare_words);
    for (uint32_t i = 0; i < row->n;) {
        uint32_t end = i + 1;
        while (end < row->n && row->words[end] == row->words[i])
            end++;
        *at++ = (struct feature_node){(int) row->words[i] + 1, end - i};
        i = end;
    }
    *at++ = (struct feature_node){(int) n_words + 1, 1};
    *at++ = (struct feature_node){-1, 0};
    return at;
}

typedef struct cross {
    const ia3_linear_row *rows;
    uint32_t n;
    struct feature_node **features; /* [n] */
    struct problem problem;         /* with room for all rows */
} cross;

/* Collects the rows of all folds but this one. Returns whether they have more than one label. */
static bool
choose_rows(cross *c, uint32_t fold)
{
    bool differ = false;
    c->problem.l = 0;
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->rows[i].fold == fold)
            continue;
        int k = c->problem.l++;
        c->problem.y[k] = c->rows[i].label;
        c->problem.x[k] = c->features[i];
        differ |= c->problem.y[k] != c->problem.y[0];
    }
    return differ;
}

static void
predict_fold(cross *c, uint32_t fold, uint32_t *predicted)
{
    struct parameter parameter = {.solver_type = L2R_LR, .eps = TOLERANCE, .C = 1};
#if LIBLINEAR_VERSION >= 240
    parameter.regularize_bias = 1;
#endif
    struct model *model = choose_rows(c, fold) ? train(&c->problem, &parameter) : NULL;
    for (uint32_t i = 0; i < c->n; i++) {
        if (c->rows[i].fold != fold)
            continue;
        if (model)
            predicted[i] = (uint32_t) predict(model, c->features[i]);
        else
            predicted[i] = c->problem.l > 0 ? (uint32_t) c->problem.y[0] : c->rows[i].label;
    }
    if (model)
        free_and_destroy_model(&model);
}

bool
ia3_linear_cross(ia3_linear_row *rows, uint32_t n, uint32_t n_words, uint32_t n_folds,
                 const atomic_bool *cancelled, uint32_t *predicted, ia3_error *err)
{
    size_t n_nodes = 0;
    for (uint32_t i = 0; i < n; i++)
        n_nodes += (size_t) rows[i].n + 2;
    struct feature_node *nodes = ia3_alloc_array(n_nodes + 1, sizeof *nodes), *at = nodes;
    cross c = {.rows = rows, .n = n};
    c.features = ia3_alloc_array(n + 1, sizeof *c.features);
    c.problem.y = ia3_alloc_array(n + 1, sizeof *c.problem.y);
    c.problem.x = ia3_alloc_array(n + 1, sizeof *c.problem.x);
    c.problem.n = (int) n_words + 1;
    c.problem.bias = 1;
    for (uint32_t i = 0; i < n; i++) {
        c.features[i] = at;
        at = put_row(at, &rows[i], n_words);
    }
    set_print_string_function(print_nothing);
    bool ok = true;
    for (uint32_t fold = 0; fold < n_folds && ok; fold++) {
        if (atomic_load(cancelled))
            ok = ia3_fail(err, IA3_E_CANCELLED, "request was cancelled");
        else
            predict_fold(&c, fold, predicted);
    }
    free(nodes);
    free(c.features);
    free(c.problem.y);
    free(c.problem.x);
    return ok;
}
