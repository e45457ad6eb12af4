/*
 * compare.c
 *     ia3_compare: two versions, of one task or of two, on the same labelled rows.
 *
 * The query runs once and both predict each of its rows, so it may return them in any order.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "row_hashes.h"
#include "scored_rows.h"
#include "statistics.h"

PG_FUNCTION_INFO_V1(ia3_compare);

typedef struct Comparison {
    Ia3Task *tasks[2];
    Ia3KnownRows *known[2]; /* the rows that each was trained on; NULL: nothing is known of them */
    int64 nKnown[2];        /* how many of them the query returns */
    Ia3PairedCounts counts;
    ArrayBuildState *differing;
} Comparison;

static void
count_known(Comparison *c, const Ia3ScoredRow *row)
{
    for (int i = 0; i < 2; i++)
        if (c->known[i] && Ia3KnownRowsHave(c->known[i], row->rows, row->row))
            c->nKnown[i]++;
}

static void
count_row(const Ia3ScoredRow *row, void *arg)
{
    Comparison *c = arg;
    bool first = Ia3AnswerIsRight(&row->answers[0]), second = Ia3AnswerIsRight(&row->answers[1]);

    count_known(c, row);
    if (first && second)
        c->counts.both++;
    else if (first)
        c->counts.onlyFirst++;
    else if (second)
        c->counts.onlySecond++;
    else
        c->counts.none++;
    if (strcmp(row->answers[0].ranking->choices[0].choice, row->answers[1].ranking->choices[0].choice) != 0)
        c->differing = accumArrayResult(c->differing, Int64GetDatum(row->number), false, INT8OID, NULL);
}

/* Says which versions the references mean, unless that is obvious. */
static void
report_versions(const Comparison *c, const char *first, const char *second)
{
    const Ia3Task *a = c->tasks[0], *b = c->tasks[1];
    bool sameChoices =
        a->choices && b->choices ? Ia3StringsEqual(a->choices, b->choices) : !a->choices && !b->choices;

    if (strcmp(a->name, b->name) == 0 && strcmp(first, a->label) == 0 && strcmp(second, b->label) == 0 &&
        sameChoices)
        return;
    ereport(NOTICE, (errmsg("comparing \"%s\" (a) with \"%s\" (b)", a->label, b->label),
                     sameChoices ? 0 : errdetail("They have different choices.")));
}

static void
report_known(const Comparison *c, int64 n)
{
    for (int i = 0; i < 2; i++)
        if (c->nKnown[i] > 0)
            ereport(NOTICE, (errmsg("\"%s\" was trained on " INT64_FORMAT " of the " INT64_FORMAT " rows",
                                    c->tasks[i]->label, c->nKnown[i], n),
                             errdetail("It may have learned their labels by heart."),
                             errhint("Compare on rows that neither version has seen.")));
}

static Datum
make_row(TupleDesc desc, const Comparison *c, int64 n)
{
    Ia3Interval interval = Ia3PairedInterval(&c->counts);
    Datum values[8];
    bool nulls[8] = {false};

    values[0] = Int64GetDatum(n);
    values[1] = Float8GetDatum((double) (c->counts.both + c->counts.onlyFirst) / n);
    values[2] = Float8GetDatum((double) (c->counts.both + c->counts.onlySecond) / n);
    values[3] = Float8GetDatum((double) (c->counts.onlySecond - c->counts.onlyFirst) / n);
    values[4] = Float8GetDatum(interval.low);
    values[5] = Float8GetDatum(interval.high);
    values[6] = Float8GetDatum(Ia3McNemarExact(&c->counts));
    values[7] = makeArrayResult(c->differing, CurrentMemoryContext);
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

Datum
ia3_compare(PG_FUNCTION_ARGS)
{
    Comparison c = {{0}};
    TupleDesc desc;
    char *references[2];
    int64 n;

    if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
        elog(ERROR, "return type must be a row type");
    for (int i = 0; i < 2; i++) {
        references[i] = text_to_cstring(PG_GETARG_TEXT_PP(i));
        c.tasks[i] = Ia3ScoringTask(references[i], "ia3_compare");
        c.known[i] = Ia3KnownRowsOf(c.tasks[i]);
    }
    report_versions(&c, references[0], references[1]);
    c.differing = initArrayResult(INT8OID, CurrentMemoryContext, false);
    n = Ia3ScoreRows(c.tasks, 2, text_to_cstring(PG_GETARG_TEXT_PP(2)), count_row, &c);
    report_known(&c, n);
    PG_RETURN_DATUM(make_row(desc, &c, n));
}
