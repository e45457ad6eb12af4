/*
 * by_weights.c
 *     Groups of rows that can share a pass.
 */
#include "by_weights.h"

#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

static char *
row_at(const ia3_rows_by_weights *r, int i)
{
    return (char *) r->rows + (size_t) i * r->size;
}

static const ia3_weights *
weights_of(const ia3_rows_by_weights *r, int i)
{
    const ia3_adapter *adapter = r->adapter_of(row_at(r, i));
    return adapter ? adapter->weights : NULL;
}

bool
ia3_compute_by_weights(ia3_model *m, const ia3_rows_by_weights *r, ia3_error *err)
{
    bool alike = true, ok = true;
    for (int i = 1; alike && i < r->n; i++)
        alike = weights_of(r, i) == weights_of(r, 0);
    if (alike)
        return r->n == 0 || r->compute(m, r->rows, r->n, err);

    char *part = ia3_alloc_array((size_t) r->n, r->size);
    int *of = ia3_alloc_array((size_t) r->n, sizeof *of);
    bool *done = ia3_alloc_array((size_t) r->n, sizeof *done);
    for (int first = 0; ok && first < r->n; first++) {
        if (done[first])
            continue;
        int k = 0;
        for (int i = first; i < r->n; i++)
            if (!done[i] && weights_of(r, i) == weights_of(r, first)) {
                memcpy(part + (size_t) k * r->size, row_at(r, i), r->size);
                done[i] = true;
                of[k++] = i;
            }
        ok = r->compute(m, part, k, err);
        for (int i = 0; i < k; i++)
            memcpy(row_at(r, of[i]), part + (size_t) i * r->size, r->size);
    }
    free(part);
    free(of);
    free(done);
    return ok;
}
