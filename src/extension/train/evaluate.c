/*
 * evaluate.c
 *     ia3_evaluate and ia3_confusion: measuring a task on the labelled rows of a query.
 *
 * While the engine scores one batch of rows, the next is read, so memory does not grow with their number. Of a task
 * with several templates the first is used, as in ia3_predict.
 */
#include "postgres.h"

#include "portability/instr_time.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "evaluate.h"
#include "extension/predict/ranking.h"
#include "train_rows.h"

PG_FUNCTION_INFO_V1(ia3_evaluate);
PG_FUNCTION_INFO_V1(ia3_confusion);

/* The batch of rows that the engine scores. */
typedef struct Batch {
    MemoryContext context; /* NULL: there is no batch */
    const Ia3TrainRows *rows;
    const Ia3Strings **choices; /* [rows->n] */
    int *gold;                  /* [rows->n] position of the label among the choices of the row */
    Ia3ScoreRequest *request;
} Batch;

typedef struct Evaluation {
    const Ia3Task *task;
    const Ia3Template *template;
    char *joined; /* the task's choices for {choices} */
    MemoryContext context;
    Batch sent;
    Ia3StringIndex *labels; /* starting with the task's choices */
    HTAB *cells;            /* of Cell, by label and prediction */
    int64 n, correct;
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

/* The position of a row's label among its choices. */
static int
gold_choice(const Ia3TrainRows *rows, int row, const Ia3Strings *choices)
{
    for (int c = 0; c < choices->n; c++)
        if (strcmp(choices->items[c], rows->rows[row].label) == 0)
            return c;
    Ia3RaiseTrainLabel(rows, row, choices);
    return -1;
}

/* The row's own choices if it has any, otherwise the task's. */
static const Ia3Strings *
row_choices(const Evaluation *e, const Ia3TrainRows *rows, int row)
{
    const Ia3Strings *choices = rows->rows[row].choices;

    if (choices != NULL)
        Ia3CheckChoices(choices);
    else
        choices = e->task->choices;
    if (choices == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("ia3 task \"%s\" has no choices of its own", e->task->name),
                        errhint("Add a column \"choices\" of type text[] to the query.")));
    return choices;
}

static void
send_batch(Evaluation *e, const Ia3TrainRows *rows, MemoryContext context)
{
    Batch *batch = &e->sent;
    int adapter;

    batch->context = context;
    batch->rows = rows;
    batch->choices = palloc(sizeof(Ia3Strings *) * rows->n);
    batch->gold = palloc(sizeof(int) * rows->n);
    batch->request = Ia3ScoreCreate(e->task->backbone);
    adapter = Ia3ScoreAddAdapter(batch->request, e->task);
    for (int i = 0; i < rows->n; i++) {
        const Ia3Strings *choices = row_choices(e, rows, i);
        Ia3Input input;

        batch->choices[i] = choices;
        batch->gold[i] = gold_choice(rows, i, choices);
        Ia3TrainRowRender(rows, &rows->rows[i], e->template,
                          choices == e->task->choices ? e->joined : Ia3StringsJoin(choices, ", "), &input);
        Ia3ScoreAddRow(batch->request, adapter, Ia3ScoreAddChoices(batch->request, choices), &input);
    }
    Ia3ScoreSend(batch->request);
}

static void
count_row(Evaluation *e, const Ia3Ranking *ranking, const Ia3Strings *choices, int gold)
{
    const Ia3RankedChoice *best = &ranking->choices[0], *other = best;
    CellKey key;
    Cell *cell;
    bool found;

    key.label = label_number(e, choices->items[gold]);
    key.predicted = label_number(e, best->choice);
    cell = hash_search(e->cells, &key, HASH_ENTER, &found);
    cell->n = found ? cell->n + 1 : 1;
    e->n++;
    e->correct += best->position == gold;
    if (ranking->n < 2)
        return;
    if (best->position == gold)
        other = &ranking->choices[1];
    for (int i = 0; i < ranking->n; i++)
        if (ranking->choices[i].position == gold)
            e->gaps += ranking->choices[i].score - other->score;
    e->nGaps++;
}

/* Waits for the batch in progress, if there is one, and counts its rows. */
static void
collect_batch(Evaluation *e)
{
    Batch batch = e->sent;
    Ia3ScoreResult *results;
    MemoryContext old;

    if (batch.context == NULL)
        return;
    old = MemoryContextSwitchTo(batch.context);
    results = Ia3ScoreCollect(batch.request);
    for (int i = 0; i < batch.rows->n; i++) {
        Ia3ScoreCheck(&results[i], psprintf("row " INT64_FORMAT " of the query", batch.rows->first + i + 1));
        count_row(e, Ia3RankingMake(batch.choices[i], &results[i]), batch.choices[i], batch.gold[i]);
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(batch.context);
    e->sent.context = NULL;
}

static void
take_rows(const Ia3TrainRows *rows, MemoryContext context, void *arg)
{
    Evaluation *e = arg;

    collect_batch(e);
    if (rows != NULL)
        send_batch(e, rows, context);
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

/*
 * The mean F1 over all labels that occur as true label or as prediction: 2tp / (2tp + fp + fn), which is what
 * scikit-learn's f1_score(average='macro') computes without labels=.
 */
static double
macro_f1(const Ia3Confusion *c)
{
    int64 *right = palloc0(sizeof(int64) * Max(c->labels->n, 1));
    int64 *seen = palloc0(sizeof(int64) * Max(c->labels->n, 1)); /* as true label plus as prediction */
    double sum = 0;
    int n = 0;

    for (int i = 0; i < c->nCells; i++) {
        const Ia3ConfusionCell *cell = &c->cells[i];

        seen[cell->label] += cell->n;
        seen[cell->predicted] += cell->n;
        if (cell->label == cell->predicted)
            right[cell->label] += cell->n;
    }
    for (int i = 0; i < c->labels->n; i++)
        if (seen[i] > 0) {
            sum += 2.0 * right[i] / seen[i];
            n++;
        }
    return sum / n;
}

Ia3Confusion *
Ia3Evaluate(const char *reference, const char *query)
{
    Evaluation e = {.context = CurrentMemoryContext};
    Ia3Confusion *result = palloc0(sizeof(Ia3Confusion));
    Ia3Template **templates;
    instr_time start, end;
    bool found;

    INSTR_TIME_SET_CURRENT(start);
    e.task = Ia3TaskLookupDetached(reference);
    Ia3TaskCheckBackbone(e.task);
    templates = Ia3TemplatesParse(e.task->templates, e.task->truncate);
    e.template = templates[0];
    e.cells = make_cells(e.context);
    e.labels = Ia3StringIndexCreate();
    if (e.task->choices != NULL) {
        Ia3CheckChoices(e.task->choices);
        e.joined = Ia3StringsJoin(e.task->choices, ", ");
        for (int i = 0; i < e.task->choices->n; i++)
            Ia3StringIndexAdd(e.labels, e.task->choices->items[i], &found);
    }
    Ia3ScanTrainRows(query, templates, 1, e.task->rowsAsWritten, take_rows, &e);
    if (e.n == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the query returns no rows"),
                        errhint("Evaluation needs at least one labelled row.")));
    INSTR_TIME_SET_CURRENT(end);
    INSTR_TIME_SUBTRACT(end, start);

    list_cells(&e, result);
    result->task = e.task;
    result->n = e.n;
    result->accuracy = (double) e.correct / e.n;
    result->macroF1 = macro_f1(result);
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
    Datum values[5];
    bool nulls[5] = {false};

    if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    c = Ia3Evaluate(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));
    values[0] = Int64GetDatum(c->n);
    values[1] = Float8GetDatum(c->accuracy);
    values[2] = Float8GetDatum(c->macroF1);
    values[3] = Float8GetDatum(c->meanGap);
    nulls[3] = !c->hasGap;
    values[4] = Float8GetDatum(c->seconds);
    PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

Datum
ia3_confusion(PG_FUNCTION_ARGS)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
    Ia3Confusion *c =
        Ia3Evaluate(text_to_cstring(PG_GETARG_TEXT_PP(0)), text_to_cstring(PG_GETARG_TEXT_PP(1)));

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
