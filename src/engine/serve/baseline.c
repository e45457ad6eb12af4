/*
 * baseline.c
 *     LINEAR requests.
 */
#include "baseline.h"

#include <stdlib.h>

#include "engine/base/alloc.h"
#include "engine/base/clock.h"

#define MAX_FOLDS 1024u

static void
free_rows(ia3_linear_row *rows, uint32_t n)
{
    for (uint32_t i = 0; rows && i < n; i++)
        free(rows[i].words);
    free(rows);
}

void
ia3_baseline_free(ia3_request *r)
{
    free_rows(r->linear.rows, r->linear.n);
    free(r->linear.predicted);
}

static uint32_t
larger(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static bool
read_rows(ia3_reader *in, ia3_request *r, ia3_error *err)
{
    uint32_t n = ia3_get_count(in, 12), n_labels = 0;
    uint64_t values = 0; /* of the matrix of features, with a constant in each row */
    if (in->bad)
        return ia3_fail(err, IA3_E_PROTOCOL, "malformed LINEAR message");
    r->linear.rows = ia3_alloc_array(n ? n : 1, sizeof *r->linear.rows);
    r->linear.n = n;
    for (uint32_t i = 0; i < n; i++) {
        ia3_linear_row *row = &r->linear.rows[i];
        row->label = ia3_get_u32(in);
        row->fold = ia3_get_u32(in);
        row->n = ia3_get_count(in, sizeof(uint32_t));
        row->words = ia3_alloc_array(row->n ? row->n : 1, sizeof *row->words);
        for (uint32_t k = 0; k < row->n; k++) {
            row->words[k] = ia3_get_u32(in);
            r->linear.n_words = larger(r->linear.n_words, row->words[k]);
        }
        r->linear.n_folds = larger(r->linear.n_folds, row->fold);
        n_labels = larger(n_labels, row->label);
        values += (uint64_t) row->n + 1;
        r->bytes += sizeof *row + row->n * (sizeof *row->words + 16);
    }
    if (in->bad || in->p != in->end)
        return ia3_fail(err, IA3_E_PROTOCOL, "malformed LINEAR message");
    if (n > IA3_MAX_ROWS || r->linear.n_words >= IA3_MAX_LINEAR || n_labels >= IA3_MAX_CHOICES ||
        (r->linear.n_words + 1 + values) * (n_labels + 1) > IA3_MAX_LINEAR)
        return ia3_fail(err, IA3_E_TOO_LONG, "too many rows, or words times labels, for a linear model");
    if (r->linear.n_folds >= MAX_FOLDS)
        return ia3_fail(err, IA3_E_INVALID, "fold %u of a linear model is out of range", r->linear.n_folds);
    r->linear.n_words++;
    r->linear.n_folds++;
    return true;
}

ia3_request *
ia3_baseline_parse(const ia3_frame *frame, ia3_error *err)
{
    ia3_reader in = {.p = frame->data, .end = frame->data + frame->len};
    ia3_request *r = ia3_alloc(sizeof *r);
    r->type = IA3_LINEAR;
    r->id = frame->request;
    r->arrived = ia3_now();
    atomic_init(&r->cancelled, false);
    bool ok = read_rows(&in, r, err);
    free(frame->data);
    if (ok) {
        r->linear.predicted = ia3_alloc_array(r->linear.n ? r->linear.n : 1, sizeof(uint32_t));
        return r;
    }
    ia3_baseline_free(r);
    free(r);
    return NULL;
}

void
ia3_baseline_run(ia3_request *r)
{
    ia3_linear_cross(r->linear.rows, r->linear.n, r->linear.n_words, r->linear.n_folds, &r->cancelled,
                     r->linear.predicted, &r->error);
}
