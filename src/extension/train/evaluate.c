/*
 * evaluate.c
 *     ia3_evaluate, ia3_confusion and ia3_class_report: measuring a task on the labelled rows of a query.
 */
#include "postgres.h"

#include <math.h>

#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"

#include "evaluate.h"
#include "extension/ia3_compat.h"
#include "scored_rows.h"

PG_FUNCTION_INFO_V1(ia3_evaluate);
PG_FUNCTION_INFO_V1(ia3_confusion);
PG_FUNCTION_INFO_V1(ia3_class_report);

typedef struct Evaluation {
    MemoryContext context;
    Ia3StringIndex *labels; /* starting with the task's choices */
    HTAB *cells;            /* of Cell, by label and prediction */
    int64 correct;
    double minProbability;
    int64 answered, answeredCorrect;
    double gaps; /* summed over nGaps rows */
    int64 nGaps;
} Evaluation;

typedef struct CellKey {
    int label, predicted;
} CellKey;

typedef struct Cell {
    CellKey key;
    int64 n;
} Cell;

static int
label_number(Evaluation *e, const char *label)
{
    int found = Ia3StringIndexFind(e->labels, label);
    bool isNew;
    MemoryContext old;

    if (found >= 0)
        return found;
    old = MemoryContextSwitchTo(e->context);
    found = Ia3StringIndexAdd(e->labels, pstrdup(label), &isNew);
    MemoryContextSwitchTo(old);
    return found;
}

static void
count_cell(Evaluation *e, int label, int predicted)
{
    CellKey key = {label, predicted};
    bool found;
    Cell *cell = hash_search(e->cells, &key, HASH_ENTER, &found);

    cell->n = found ? cell->n + 1 : 1;
}

/* A row of a multi-label task. What is neither right nor predicted is not counted. */
static void
count_labels(Evaluation *e, const Ia3ScoredAnswer *answer)
{
    const Ia3Ranking *ranking = answer->ranking;
    bool exact = true;

    for (int i = 0; i < ranking->n; i++) {
        const Ia3RankedChoice *c = &ranking->choices[i];
        bool right = answer->right[c->position], predicted = Ia3LabelIsPredicted(c, e->minProbability);
        int label = label_number(e, c->choice);

        if (right || predicted)
            count_cell(e, right ? label : -1, predicted ? label : -1);
        exact = exact && right == predicted;
        e->gaps += right ? c->score : -c->score;
    }
    e->nGaps += ranking->n;
    e->correct += exact;
    e->answered++;
    e->answeredCorrect += exact;
}

static void
count_row(const Ia3ScoredRow *row, void *arg)
{
    Evaluation *e = arg;
    const Ia3ScoredAnswer *answer = &row->answers[0];
    const Ia3Ranking *ranking = answer->ranking;
    const Ia3RankedChoice *best = &ranking->choices[0], *other = best;
    int label;

    if (answer->right != NULL) {
        count_labels(e, answer);
        return;
    }
    label = label_number(e, row->row->label);
    count_cell(e, label, label_number(e, best->choice));
    e->correct += Ia3AnswerIsRight(answer);
    if (Ia3RankingBest(ranking, e->minProbability) != NULL) {
        e->answered++;
        e->answeredCorrect += Ia3AnswerIsRight(answer);
    }
    if (ranking->n < 2)
        return;
    if (Ia3AnswerIsRight(answer))
        other = &ranking->choices[1];
    for (int i = 0; i < ranking->n; i++)
        if (ranking->choices[i].position == answer->gold)
            e->gaps += ranking->choices[i].score - other->score;
    e->nGaps++;
}

static HTAB *
make_cells(MemoryContext context)
{
    HASHCTL control;

    memset(&control, 0, sizeof control);
    control.keysize = sizeof(CellKey);
    control.entrysize = sizeof(Cell);
    control.hcxt = context;
    return hash_create("ia3 confusion", 256, &control, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

static int
compare_cells(const void *a, const void *b)
{
    const Ia3ConfusionCell *x = a, *y = b;

    return x->label != y->label ? x->label - y->label : x->predicted - y->predicted;
}

/* Lists the cells in the order of the labels. */
static void
list_cells(const Evaluation *e, Ia3Confusion *result)
{
    HASH_SEQ_STATUS scan;
    Cell *cell;

    result->labels = Ia3StringIndexStrings(e->labels);
    result->cells = palloc(sizeof(Ia3ConfusionCell) * Max(hash_get_num_entries(e->cells), 1));
    hash_seq_init(&scan, e->cells);
    while ((cell = hash_seq_search(&scan)) != NULL) {
        Ia3ConfusionCell *out = &result->cells[result->nCells++];

        out->label = cell->key.label;
        out->predicted = cell->key.predicted;
        out->n = cell->n;
    }
    qsort(result->cells, result->nCells, sizeof(Ia3ConfusionCell), compare_cells);
}

/* Counts the rows of each label, as the sums of the matrix's rows and columns. */
static void
list_classes(Ia3Confusion *c)
{
    c->classes = palloc0(sizeof(Ia3ClassCounts) * Max(c->labels->n, 1));
    for (int i = 0; i < c->nCells; i++) {
        const Ia3ConfusionCell *cell = &c->cells[i];

        if (cell->label >= 0)
            c->classes[cell->label].n += cell->n;
        if (cell->predicted >= 0)
            c->classes[cell->predicted].predicted += cell->n;
        if (cell->label == cell->predicted)
            c->classes[cell->label].right += cell->n;
    }
}

/* Whether the label occurs as true label or as prediction; otherwise it has no F1. */
static bool
class_occurs(const Ia3ClassCounts *class)
{
    return class->n + class->predicted > 0;
}

/* 2tp / (2tp + fp + fn) */
static double
class_f1(const Ia3ClassCounts *class)
{
    return 2.0 * class->right / (class->n + class->predicted);
}

/*
 * The mean F1 over all labels that occur as true label or as prediction, which is what scikit-learn's
 * f1_score(average='macro') computes without labels=.
 */
static double
macro_f1(const Ia3Confusion *c)
{
    double sum = 0;
    int n = 0;

    for (int i = 0; i < c->labels->n; i++)
        if (class_occurs(&c->classes[i])) {
            sum += class_f1(&c->classes[i]);
            n++;
        }
    return n > 0 ? sum / n : NAN;
}

/* The F1 of all labels together, as of one. */
static double
micro_f1(const Ia3Confusion *c)
{
    Ia3ClassCounts all = {0};

    for (int i = 0; i < c->labels->n; i++) {
        all.n += c->classes[i].n;
        all.predicted += c->classes[i].predicted;
        all.right += c->classes[i].right;
    }
    return class_occurs(&all) ? class_f1(&all) : NAN;
}

Ia3Confusion *
Ia3Evaluate(const char *reference, const char *query, double minProbability, const char *function)
{
    Evaluation e = {.context = CurrentMemoryContext, .minProbability = minProbability};
    Ia3Confusion *result = palloc0(sizeof(Ia3Confusion));
    Ia3Task *task;
    instr_time start, end;
    bool found;

    INSTR_TIME_SET_CURRENT(start);
    task = Ia3ScoringTask(reference, function);
    e.cells = make_cells(e.context);
    e.labels = Ia3StringIndexCreate();
    for (int i = 0; task->choices && i < task->choices->n; i++)
        Ia3StringIndexAdd(e.labels, task->choices->items[i], &found);
    result->n = Ia3ScoreRows(&task, 1, query, count_row, &e);
    INSTR_TIME_SET_CURRENT(end);
    INSTR_TIME_SUBTRACT(end, start);

    list_cells(&e, result);
    list_classes(result);
    result->task = task;
    result->accuracy = (double) e.correct / result->n;
    result->macroF1 = macro_f1(result);
    result->microF1 = task->multiLabel ? micro_f1(result) : NAN;
    result->answered = e.answered;
    result->answeredAccuracy = e.answered > 0 ? (double) e.answeredCorrect / e.answered : NAN;
    result->hasGap = e.nGaps > 0;
    result->meanGap = e.nGaps > 0 ? e.gaps / e.nGaps : 0;
    result->seconds = INSTR_TIME_GET_DOUBLE(end);
    return result;
}

Datum
ia3_evaluate(PG_FUNCTION_ARGS)
{
    TupleDesc desc;
    Ia3Confusion *c;
    Datum values[8];
    bool nulls[8] = {false};

    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    c = Ia3Evaluate(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
                    Ia3MinProbability(fcinfo, 2), NULL);
    values[0] = Int64GetDatum(c->n);
    values[1] = Float8GetDatum(c->accuracy);
    values[2] = Float8GetDatum(c->macroF1);
    nulls[2] = isnan(c->macroF1);
    values[3] = Float8GetDatum(c->meanGap);
    nulls[3] = !c->hasGap;
    values[4] = Float8GetDatum(c->seconds);
    values[5] = Int64GetDatum(c->answered);
    values[6] = Float8GetDatum(c->answeredAccuracy);
    nulls[6] = c->answered == 0;
    values[7] = Float8GetDatum(c->microF1);
    nulls[7] = isnan(c->microF1);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

Datum
ia3_confusion(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3Confusion *c =
        Ia3Evaluate(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)),
                    IA3_TASK_MIN_PROBABILITY, "ia3_confusion");

    Ia3InitMaterializedSRF(fcinfo);
    for (int i = 0; i < c->nCells; i++) {
        Datum values[3];
        bool nulls[3] = {false};

        values[0] = CStringGetTextDatum(c->labels->items[c->cells[i].label]);
        values[1] = CStringGetTextDatum(c->labels->items[c->cells[i].predicted]);
        values[2] = Int64GetDatum(c->cells[i].n);
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}

/* A quotient; NULL where there is nothing to divide by. */
static void
put_quotient(int64 part, int64 whole, Datum *value, bool *isNull)
{
    *isNull = whole == 0;
    *value = Float8GetDatum(whole == 0 ? 0 : (double) part / whole);
}

Datum
ia3_class_report(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3Confusion *c = Ia3Evaluate(text_to_cstring(PG_GETARG_TEXT_PP(0)),
                                  text_to_cstring(PG_GETARG_TEXT_PP(1)), IA3_TASK_MIN_PROBABILITY, NULL);

    Ia3InitMaterializedSRF(fcinfo);
    for (int i = 0; i < c->labels->n; i++) {
        const Ia3ClassCounts *class = &c->classes[i];
        Datum values[6];
        bool nulls[6] = {false};

        values[0] = CStringGetTextDatum(c->labels->items[i]);
        values[1] = Int64GetDatum(class->n);
        values[2] = Int64GetDatum(class->predicted);
        put_quotient(class->right, class->predicted, &values[3], &nulls[3]);
        put_quotient(class->right, class->n, &values[4], &nulls[4]);
        nulls[5] = !class_occurs(class);
        values[5] = Float8GetDatum(nulls[5] ? 0 : class_f1(class));
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}
