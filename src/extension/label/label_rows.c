/*
 * label_rows.c
 *     Predictions for rows that have been read from a table.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/itemptr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "label_rows.h"
#include "extension/predict/ranking.h"

/* A request ends early when its texts are larger than this. */
#define MAX_REQUEST_BYTES (16 * 1024 * 1024)

/* Rows that are predicted in one request. */
typedef struct Batch {
    Ia3LabelInput *input;
    Ia3LabelAnswers *answers;
    Ia3ScoreRequest *request;
    int adapter;
    Size bytes;
    int n;
    int *row;                   /* [n] in the answers */
    const Ia3Strings **choices; /* [n] */
} Batch;

void
Ia3LabelInputInit(Ia3LabelInput *input, const Ia3CallTask *task, Oid type)
{
    const Oid base = getBaseType(type);

    input->task = task;
    input->form = base == JSONBOID ? IA3_CALL_FIELDS : base == JSONOID ? IA3_CALL_FIELDS_TEXT : IA3_CALL_TEXT;
    if (input->form == IA3_CALL_TEXT)
        Ia3FieldTextInit(&input->text, type);
}

/* Names a row for the context of an error. */
static char *
row_name(const char *table, ItemPointer id)
{
    return psprintf("row (%u,%u) of table \"%s\"", ItemPointerGetBlockNumberNoCheck(id),
                    ItemPointerGetOffsetNumberNoCheck(id), table);
}

typedef struct RowContext {
    Oid relation;
    const char *table; /* its name: an error may not read the catalog */
    ItemPointer id;
} RowContext;

static void
add_context(void *arg)
{
    const RowContext *c = arg;

    errcontext("%s", row_name(c->table, c->id));
}

/* The engine's error of a row, as text. */
static char *
row_error(const Ia3ScoreResult *result)
{
    return result->detail != NULL && result->detail[0] != '\0'
               ? psprintf("%s\nDETAIL:  %s", result->message, result->detail)
               : pstrdup(result->message);
}

/* Predicts the rows that have been added, and begins again. */
static void
predict(Batch *b)
{
    const Ia3Task *task = b->input->task->task;
    Ia3LabelAnswers *answers = b->answers;
    Ia3ScoreResult *results = b->n > 0 ? Ia3ScoreRun(b->request) : NULL;

    for (int k = 0; k < b->n; k++) {
        const int i = b->row[k];
        Ia3Ranking *ranking;
        const char *best;

        if (!results[k].ok && b->input->keepErrors) {
            answers->errors[i] = row_error(&results[k]);
            continue;
        }
        if (!results[k].ok)
            Ia3ScoreCheck(&results[k], row_name(get_rel_name(DatumGetObjectId(answers->relations[i])),
                                                (ItemPointer) DatumGetPointer(answers->ids[i])));
        ranking = Ia3RankingMake(task, b->choices[k], &results[k]);
        best = Ia3RankingBest(ranking, IA3_TASK_MIN_PROBABILITY);
        answers->noLabel[i] = best == NULL;
        answers->labels[i] = best ? CStringGetTextDatum(best) : (Datum) 0;
        answers->noProbability[i] = false;
        answers->probabilities[i] = Float8GetDatum(ranking->choices[0].probability);
    }
    b->request = Ia3ScoreCreate(task->backbone);
    b->adapter = Ia3ScoreAddAdapter(b->request, task);
    b->bytes = 0;
    b->n = 0;
}

static void
add_row(Batch *b, int i, Datum value)
{
    Ia3Call call = {.form = b->input->form, .nArgs = 2};
    Ia3Question question;

    call.args[0] = CStringGetTextDatum(b->input->task->task->name);
    call.args[1] =
        b->input->form == IA3_CALL_TEXT ? CStringGetTextDatum(Ia3ValueTextOf(&b->input->text, value)) : value;
    Ia3QuestionMake(&call, b->input->task, &question);
    Ia3ScoreAddRow(b->request, b->adapter, Ia3ScoreAddChoices(b->request, &question.set), &question.input);
    b->choices[b->n] = question.choices;
    b->row[b->n++] = i;
    b->bytes += question.input.len;
}

void
Ia3LabelRefuseMultiLabel(const Ia3Task *task)
{
    Ia3TaskRefuseMultiLabel(task, "a label column",
                            "Fill a column of type text[] with UPDATE and ia3_predict_labels.");
}

Ia3LabelAnswers *
Ia3LabelPredict(Ia3LabelInput *input, const SPITupleTable *rows)
{
    const int n = (int) rows->numvals;
    Ia3LabelAnswers *answers = palloc0(sizeof(Ia3LabelAnswers));
    Batch batch = {.input = input, .answers = answers};
    RowContext where = {InvalidOid, NULL, NULL};
    ErrorContextCallback context = {error_context_stack, add_context, &where};

    Ia3LabelRefuseMultiLabel(input->task->task); /* a watched task may have become one */
    answers->n = n;
    answers->relations = palloc(sizeof(Datum) * n);
    answers->ids = palloc(sizeof(Datum) * n);
    answers->labels = palloc0(sizeof(Datum) * n);
    answers->probabilities = palloc0(sizeof(Datum) * n);
    answers->errors = palloc0(sizeof(char *) * n);
    answers->noLabel = palloc(sizeof(bool) * n);
    answers->noProbability = palloc(sizeof(bool) * n);
    batch.row = palloc(sizeof(int) * n);
    batch.choices = palloc(sizeof(Ia3Strings *) * n);
    predict(&batch);
    for (int i = 0; i < n; i++) {
        bool isNull;
        Datum value;

        CHECK_FOR_INTERRUPTS();
        answers->relations[i] = SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isNull);
        answers->ids[i] = SPI_getbinval(rows->vals[i], rows->tupdesc, 2, &isNull);
        value = SPI_getbinval(rows->vals[i], rows->tupdesc, 3, &isNull);
        answers->noLabel[i] = answers->noProbability[i] = true;
        if (isNull)
            continue;
        where.id = (ItemPointer) DatumGetPointer(answers->ids[i]);
        if (DatumGetObjectId(answers->relations[i]) != where.relation) {
            where.relation = DatumGetObjectId(answers->relations[i]);
            where.table = get_rel_name(where.relation);
        }
        error_context_stack = &context;
        add_row(&batch, i, value);
        error_context_stack = context.previous;
        if (batch.bytes > MAX_REQUEST_BYTES)
            predict(&batch);
    }
    predict(&batch);
    return answers;
}

int64
Ia3LabelStore(SPIPlanPtr update, Oid relation, const Ia3LabelAnswers *a)
{
    int dims[1] = {a->n}, lower[1] = {1};
    Datum values[4];
    int rc;

    values[0] = PointerGetDatum(construct_array(a->relations, a->n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
    values[1] = PointerGetDatum(
        construct_array(a->ids, a->n, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
    values[2] = PointerGetDatum(
        construct_md_array(a->labels, a->noLabel, 1, dims, lower, TEXTOID, -1, false, TYPALIGN_INT));
    values[3] =
        PointerGetDatum(construct_md_array(a->probabilities, a->noProbability, 1, dims, lower, FLOAT8OID,
                                           sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
    rc = SPI_execute_plan(update, values, NULL, false, 0);
    if (rc != SPI_OK_UPDATE)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("cannot label rows of \"%s\"", get_rel_name(relation)),
                        errdetail("Rules of the table turn an UPDATE into something else.")));
    return (int64) SPI_processed;
}
