/*
 * subsets.c
 *     Stratified, nested subsets of training rows.
 */
#include "postgres.h"

#include "arrays.h"
#include "folds.h"
#include "random.h"
#include "subsets.h"

typedef struct Candidate {
    int row, label;
    uint64 key;
    int64 place, count; /* 2j - 1 and c */
} Candidate;

static int
by_label(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;

    if (x->label != y->label)
        return x->label < y->label ? -1 : 1;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->row - y->row;
}

static int
by_place(const void *a, const void *b)
{
    const Candidate *x = a, *y = b;
    int64 first = x->place * y->count, second = y->place * x->count;

    if (first != second)
        return first < second ? -1 : 1;
    return x->label - y->label;
}

void
Ia3SubsetsOrder(int *rows, int n, const int *label, int64 seed, int repeat)
{
    Candidate *candidates = Ia3ArrayOf(n, sizeof(Candidate));
    /* the keys of the groups, from which folds are assigned, are those of `repeat` alone */
    uint64 stream = Ia3Random((uint64) seed, IA3_MAX_REPEATS + repeat);

    for (int i = 0; i < n; i++) {
        candidates[i].row = rows[i];
        candidates[i].label = label[rows[i]];
        candidates[i].key = Ia3Random(stream, rows[i]);
    }
    qsort(candidates, n, sizeof(Candidate), by_label);
    for (int first = 0, end; first < n; first = end) {
        for (end = first; end < n && candidates[end].label == candidates[first].label; end++)
            ;
        for (int i = first; i < end; i++) {
            candidates[i].place = 2 * (i - first) + 1;
            candidates[i].count = end - first;
        }
    }
    qsort(candidates, n, sizeof(Candidate), by_place);
    for (int i = 0; i < n; i++)
        rows[i] = candidates[i].row;
    pfree(candidates);
}
