/*
 * scored_rows.c
 *     Predicting the labelled rows of a query with one task, or with several.
 *
 * While the engine scores one batch of rows, the next is read, so memory does not grow with their number. Of a task
 * with several templates the first is used, as in ia3_predict.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "scored_rows.h"

/* A task, and what all rows have in common for it. */
typedef struct Scorer {
    const Ia3Task *task;
    Ia3Template **templates;
    Ia3ChoiceSet set; /* of the task's choices, if it has any */
    Ia3PromptLists lists;
} Scorer;

/* What the engine scores with one of the tasks. */
typedef struct Scores {
    const Ia3Strings **choices; /* [rows->n] */
    int *gold;                  /* [rows->n] position of the label among the choices of the row */
    bool **right;               /* [rows->n], each by position; NULL: one is right */
    Ia3ScoreRequest *request;
    Ia3ScoreResult *results;
} Scores;

/* The batch of rows that the engine scores. */
typedef struct Batch {
    MemoryContext context; /* NULL: there is no batch */
    const Ia3TrainRows *rows;
    Scores *scores; /* [nScorers] */
} Batch;

typedef struct RowScan {
    int nScorers;
    Scorer *scorers;
    Batch sent;
    int64 n;
    Ia3TakeScored take;
    void *arg;
} RowScan;

/* The position of a row's label among its choices. */
static int
gold_choice(const Ia3TrainRows *rows, int row, const Ia3Strings *choices)
{
    for (int c = 0; c < choices->n; c++)
        if (strcmp(choices->items[c], rows->rows[row].label) == 0)
            return c;
    Ia3RaiseTrainLabel(rows, row, rows->rows[row].label, choices);
    return -1;
}

/* Which of the choices are right for a multi-label row. */
static bool *
right_choices(const Ia3TrainRows *rows, int row, const Ia3Strings *choices)
{
    const Ia3Strings *labels = rows->rows[row].labels;
    bool *right = palloc0(sizeof(bool) * choices->n);

    for (int l = 0; l < labels->n; l++) {
        int c = 0;

        while (c < choices->n && strcmp(choices->items[c], labels->items[l]) != 0)
            c++;
        if (c == choices->n)
            Ia3RaiseTrainLabel(rows, row, labels->items[l], choices);
        right[c] = true;
    }
    return right;
}

/* The row's own choices if it has any, otherwise the task's. */
static const Ia3Strings *
row_choices(const Ia3Task *task, const Ia3TrainRow *row)
{
    if (row->choices != NULL) {
        Ia3CheckChoices(row->choices);
        return row->choices;
    }
    if (task->choices == NULL)
        Ia3RaiseNoChoices(task);
    return task->choices;
}

static void
send_scores(const Scorer *scorer, const Ia3TrainRows *rows, Scores *scores)
{
    const Ia3Task *task = scorer->task;
    int adapter;

    scores->choices = palloc(sizeof(Ia3Strings *) * rows->n);
    scores->gold = palloc0(sizeof(int) * rows->n);
    scores->right = rows->multiLabel ? palloc(sizeof(bool *) * rows->n) : NULL;
    scores->request = Ia3ScoreCreate(task->backbone);
    adapter = Ia3ScoreAddAdapter(scores->request, task);
    for (int i = 0; i < rows->n; i++) {
        const Ia3Strings *choices = row_choices(task, &rows->rows[i]);
        bool own = choices == task->choices;
        Ia3ChoiceSet set = own ? scorer->set : Ia3TaskScored(task, choices);
        Ia3PromptLists lists = own ? scorer->lists : Ia3WordingLists(task->wording, choices);
        Ia3Input input;

        scores->choices[i] = choices;
        if (scores->right)
            scores->right[i] = right_choices(rows, i, choices);
        else
            scores->gold[i] = gold_choice(rows, i, choices);
        Ia3TrainRowRender(rows, &rows->rows[i], scorer->templates[0], &lists, &input);
        Ia3ScoreAddRow(scores->request, adapter, Ia3ScoreAddChoices(scores->request, &set), &input);
    }
    Ia3ScoreSend(scores->request);
}

static void
send_batch(RowScan *scan, const Ia3TrainRows *rows, MemoryContext context)
{
    Batch *batch = &scan->sent;

    batch->context = context;
    batch->rows = rows;
    batch->scores = palloc0(sizeof(Scores) * scan->nScorers);
    for (int s = 0; s < scan->nScorers; s++)
        send_scores(&scan->scorers[s], rows, &batch->scores[s]);
}

static void
take_row(RowScan *scan, const Batch *batch, int i)
{
    Ia3ScoredAnswer *answers = palloc(sizeof(Ia3ScoredAnswer) * scan->nScorers);
    Ia3ScoredRow row = {batch->rows->first + i + 1, batch->rows, &batch->rows->rows[i], answers};

    for (int s = 0; s < scan->nScorers; s++) {
        const Scores *scores = &batch->scores[s];

        Ia3ScoreCheck(&scores->results[i], psprintf("row " INT64_FORMAT " of the query", row.number));
        answers[s].ranking = Ia3RankingMake(scan->scorers[s].task, scores->choices[i], &scores->results[i]);
        answers[s].gold = scores->gold[i];
        answers[s].right = scores->right ? scores->right[i] : NULL;
    }
    scan->take(&row, scan->arg);
    scan->n++;
}

/* Waits for the batch in progress, if there is one, and hands over its rows. */
static void
collect_batch(RowScan *scan)
{
    Batch batch = scan->sent;
    MemoryContext old;

    if (batch.context == NULL)
        return;
    old = MemoryContextSwitchTo(batch.context);
    for (int s = 0; s < scan->nScorers; s++)
        batch.scores[s].results = Ia3ScoreCollect(batch.scores[s].request);
    for (int i = 0; i < batch.rows->n; i++)
        take_row(scan, &batch, i);
    MemoryContextSwitchTo(old);
    MemoryContextDelete(batch.context);
    scan->sent.context = NULL;
}

static void
take_rows(const Ia3TrainRows *rows, MemoryContext context, void *arg)
{
    RowScan *scan = arg;

    collect_batch(scan);
    if (rows != NULL)
        send_batch(scan, rows, context);
}

Ia3Task *
Ia3ScoringTask(const char *reference, const char *function)
{
    Ia3Task *task = Ia3TaskLookupDetached(reference);

    if (function != NULL)
        Ia3TaskRefuseMultiLabel(task, function, "ia3_evaluate and ia3_class_report measure such tasks.");
    Ia3TaskCheckBackbone(task);
    if (task->choices != NULL)
        Ia3CheckChoices(task->choices);
    return task;
}

int64
Ia3ScoreRows(Ia3Task *const *tasks, int nTasks, const char *query, Ia3TakeScored take, void *arg)
{
    RowScan scan = {.nScorers = nTasks, .take = take, .arg = arg};
    Ia3Template **first = palloc(sizeof(Ia3Template *) * nTasks);

    scan.scorers = palloc0(sizeof(Scorer) * nTasks);
    for (int s = 0; s < nTasks; s++) {
        const Ia3Task *task = tasks[s];

        if (task->rowsAsWritten != tasks[0]->rowsAsWritten)
            ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                            errmsg("\"%s\" and \"%s\" read values of rows in different ways", tasks[0]->label,
                                   task->label),
                            errhint("Train the older version again.")));
        scan.scorers[s].task = task;
        scan.scorers[s].templates = Ia3TemplatesParse(task->templates, task->truncate);
        if (task->choices)
            scan.scorers[s].set = Ia3TaskScored(task, task->choices);
        scan.scorers[s].lists = Ia3WordingLists(task->wording, task->choices);
        first[s] = scan.scorers[s].templates[0];
    }
    Ia3ScanTrainRows(query, first, nTasks, tasks[0]->rowsAsWritten,
                     tasks[0]->multiLabel ? IA3_LABEL_ARRAY : IA3_LABEL_ONE, take_rows, &scan);
    if (scan.n == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the query returns no rows"),
                        errhint("Evaluation needs at least one labelled row.")));
    return scan.n;
}
