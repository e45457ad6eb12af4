/*
 * folds.c
 *     The folds of a cross-validation: which row is held out by which training run.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "extension/predict/score_request.h"
#include "folds.h"
#include "random.h"

/* Rows in one request to be scored: enough to fill batches, few enough that neither request nor reply is large. */
#define SCORE_ROWS 1024

/* The rows that stay together. */
typedef struct RowGroup {
    int first; /* in `order` */
    int n;
    int label; /* of its first row */
    uint64 key;
} RowGroup;

typedef struct Distribution {
    int *label; /* [rows] */
    int nLabels;
    double *weight; /* [nLabels] 1 / n² */
    int *order;     /* [rows] the rows, group by group */
    int nGroups;
    RowGroup *groups;
    int *count; /* [folds][nLabels] */
    int *size;  /* [folds] */
} Distribution;

static void
number_labels(Distribution *d, const Ia3TrainRows *rows)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();
    bool found;

    d->label = Ia3ArrayOf(rows->n, sizeof(int));
    for (int i = 0; i < rows->n; i++)
        d->label[i] = Ia3StringIndexAdd(index, rows->rows[i].label, &found);
    d->nLabels = Ia3StringIndexStrings(index)->n;
    d->weight = Ia3ArrayOf(d->nLabels, sizeof(double));
    for (int i = 0; i < rows->n; i++)
        d->weight[d->label[i]]++;
    for (int l = 0; l < d->nLabels; l++)
        d->weight[l] = 1 / (d->weight[l] * d->weight[l]);
}

/* Sorts the rows by their groups; both keep the order in which they appear. */
static void
form_groups(Distribution *d, const Ia3TrainRows *rows)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();
    int *group = Ia3ArrayOf(rows->n, sizeof(int)), at = 0;
    bool found;

    d->groups = Ia3ArrayOf(rows->n, sizeof(RowGroup));
    d->order = Ia3ArrayOf(rows->n, sizeof(int));
    for (int i = 0; i < rows->n; i++) {
        group[i] = rows->rows[i].group ? Ia3StringIndexAdd(index, rows->rows[i].group, &found) : i;
        d->nGroups = Max(d->nGroups, group[i] + 1);
        if (d->groups[group[i]].n++ == 0)
            d->groups[group[i]].label = d->label[i];
    }
    for (int g = 0; g < d->nGroups; g++) {
        d->groups[g].first = at;
        at += d->groups[g].n;
        d->groups[g].n = 0;
    }
    for (int i = 0; i < rows->n; i++) {
        RowGroup *g = &d->groups[group[i]];

        d->order[g->first + g->n++] = i;
    }
    pfree(group);
}

static int
compare_groups(const void *a, const void *b)
{
    const RowGroup *x = a, *y = b;

    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    if (x->label != y->label)
        return x->label < y->label ? -1 : 1;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->first - y->first;
}

/* The fold that has least of what the group has. */
static int
choose_fold(const Distribution *d, const RowGroup *g, int folds)
{
    int best = 0;
    double least = 0;

    for (int f = 0; f < folds; f++) {
        const int *count = d->count + (Size) f * d->nLabels;
        double share = 0;

        for (int k = 0; k < g->n; k++) {
            int label = d->label[d->order[g->first + k]];

            share += count[label] * d->weight[label];
        }
        if (f == 0 || share < least || (share == least && d->size[f] < d->size[best])) {
            best = f;
            least = share;
        }
    }
    return best;
}

void
Ia3FoldsAssign(const Ia3TrainRows *rows, int folds, int64 seed, int repeat, int *fold)
{
    Distribution d = {0};
    MemoryContext scratch = AllocSetContextCreate(CurrentMemoryContext, "ia3 folds", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(scratch);

    number_labels(&d, rows);
    form_groups(&d, rows);
    if (d.nGroups < folds)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("there are fewer %s than folds", rows->rows[0].group ? "groups" : "rows"),
                        errdetail("The query returns %d %s, and folds is %d.", d.nGroups,
                                  rows->rows[0].group ? "groups" : "rows", folds)));
    for (int g = 0; g < d.nGroups; g++)
        d.groups[g].key = Ia3Random(Ia3Random((uint64) seed, repeat), g);
    qsort(d.groups, d.nGroups, sizeof(RowGroup), compare_groups);
    d.count = Ia3ArrayOf((Size) folds * d.nLabels, sizeof(int));
    d.size = Ia3ArrayOf(folds, sizeof(int));
    for (int g = 0; g < d.nGroups; g++) {
        const RowGroup *group = &d.groups[g];
        int f = choose_fold(&d, group, folds);

        CHECK_FOR_INTERRUPTS();
        for (int k = 0; k < group->n; k++) {
            int row = d.order[group->first + k];

            fold[row] = f;
            d.count[(Size) f * d.nLabels + d.label[row]]++;
        }
        d.size[f] += group->n;
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(scratch);
}

void
Ia3FoldsReportSingleLabels(const Ia3TrainRows *rows)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();
    int *count, n = 0, single = 0;
    const char *example = NULL;
    bool found;

    for (int i = 0; i < rows->n; i++)
        n += rows->rows[i].labels ? rows->rows[i].labels->n : 1;
    count = Ia3ArrayOf(n, sizeof(int));
    for (int i = 0; i < rows->n; i++) {
        const Ia3TrainRow *row = &rows->rows[i];

        if (row->choices != NULL) /* they may have other labels on purpose */
            continue;
        for (int k = 0; row->labels && k < row->labels->n; k++)
            count[Ia3StringIndexAdd(index, row->labels->items[k], &found)]++;
        if (row->labels == NULL)
            count[Ia3StringIndexAdd(index, row->label, &found)]++;
    }
    n = Ia3StringIndexStrings(index)->n;
    for (int l = 0; l < n; l++)
        if (count[l] == 1 && single++ == 0)
            example = Ia3StringIndexStrings(index)->items[l];
    if (single > 0)
        ereport(NOTICE, (single == 1 ? errmsg("label \"%s\" occurs only once", example)
                                     : errmsg("%d labels occur only once, such as \"%s\"", single, example),
                         errdetail("The run that predicts this row has seen no row with its label.")));
    pfree(count);
}

int64
Ia3FoldSeed(int64 seed, int folds, int repeat, int fold)
{
    return (int64) ((uint64) seed + 32 * ((uint64) repeat * folds + fold));
}

void
Ia3FoldsRuns(const int *fold, int n, int folds, int64 seed, int repeat, Ia3JobRun *runs)
{
    for (int f = 0; f < folds; f++) {
        Ia3JobRun *run = &runs[f];

        run->seed = Ia3FoldSeed(seed, folds, repeat, f);
        run->n = 0;
        run->examples = Ia3ArrayOf(n, sizeof(int));
        for (int i = 0; i < n; i++)
            if (fold[i] != f)
                run->examples[run->n++] = i;
    }
}

/* Scores the rows from `first` up to but not including `end`. */
static void
score_rows(const Ia3TrainJob *job, const Ia3Examples *examples, const Ia3Template *template, const int *fold,
           Ia3Task **adapters, int first, int end, double **scores, MemoryContext results)
{
    Ia3ScoreRequest *request = Ia3ScoreCreate(job->backbone);
    Ia3ScoreResult *result;

    Ia3ScoreSetInputTokens(request, job->maxInputTokens);
    for (int i = first; i < end; i++) {
        Ia3Input input;
        int set = examples->set[i];

        Ia3TrainRowRender(examples->rows, &examples->rows->rows[i], template, &examples->lists[set], &input);
        Ia3ScoreAddRow(request, Ia3ScoreAddAdapter(request, adapters[fold[i]]),
                       Ia3ScoreAddChoices(request, &examples->worded[set]), &input);
    }
    result = Ia3ScoreRun(request);
    for (int i = first; i < end; i++) {
        Ia3ScoreResult *r = &result[i - first];

        Ia3ScoreCheck(r, psprintf("row %d of the query", i + 1));
        scores[i] = MemoryContextAlloc(results, sizeof(double) * r->n);
        memcpy(scores[i], r->scores, sizeof(double) * r->n);
    }
}

void
Ia3FoldsScore(const Ia3TrainJob *job, const Ia3Examples *examples, const Ia3Template *template,
              const int *fold, int folds, const Ia3Trained *trained, double **scores)
{
    MemoryContext results = CurrentMemoryContext;
    MemoryContext scratch = AllocSetContextCreate(results, "ia3 held-out rows", ALLOCSET_DEFAULT_SIZES);
    Ia3Task **adapters = palloc(sizeof(Ia3Task *) * folds);

    for (int f = 0; f < folds; f++)
        adapters[f] = Ia3TrainedTask(job, &trained[f], psprintf("fold %d", f + 1));
    for (int i = 0; i < examples->rows->n; i += SCORE_ROWS) {
        MemoryContextSwitchTo(scratch);
        score_rows(job, examples, template, fold, adapters, i, Min(i + SCORE_ROWS, examples->rows->n), scores,
                   results);
        MemoryContextSwitchTo(results);
        MemoryContextReset(scratch);
    }
    MemoryContextDelete(scratch);
}
