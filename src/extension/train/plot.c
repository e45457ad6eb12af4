/*
 * plot.c
 *     ia3_plot: an SVG picture of how a version was trained and, given a query, of how well it predicts.
 *
 * The picture is written as text. What may come from users (names, labels) is escaped by svg.c.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "chart.h"
#include "evaluate.h"
#include "extension/tasks/catalog.h"
#include "loss_curve.h"
#include "svg.h"

PG_FUNCTION_INFO_V1(ia3_plot);
PG_FUNCTION_INFO_V1(ia3_plot_version);
PG_FUNCTION_INFO_V1(ia3_plot_query);

#define WIDTH       640
#define LOSS_HEIGHT 330
#define LEFT        64 /* of the axes of the losses */
#define RIGHT       616
#define TOP         70
#define BOTTOM      272

#define MAX_LABELS    24 /* shown one by one; the rarest others share a row */
#define LABEL_COLUMNS 22
#define LABEL_SIZE    12
#define COLUMN_WIDTH  6.6 /* pixels that a column of a label takes, approximately */

/* What is known about the training run of a version. */
typedef struct Training {
    Ia3LossCurve curve;                    /* n = 0: no losses are stored */
    double steps, loss, examples, seconds; /* NaN: unknown */
} Training;

static Ia3Query metricsQuery = {
    .sql = "SELECT a.metrics FROM ia3.adapter a WHERE a.task OPERATOR(pg_catalog.=) $1"
           " AND a.version OPERATOR(pg_catalog.=) $2",
    .nArgs = 2,
    .argTypes = {TEXTOID, INT4OID},
};

/* NULL when the version has no metrics. */
static Jsonb *
fetch_metrics(const Ia3Task *task)
{
    MemoryContext caller = CurrentMemoryContext;
    Datum values[2], value;
    bool isNull = true;
    Jsonb *metrics = NULL;

    Ia3SpiConnect();
    values[0] = CStringGetTextDatum(task->name);
    values[1] = Int32GetDatum(task->version);
    if (Ia3QueryRun(&metricsQuery, values, NULL, true) > 0) {
        value = Ia3QueryColumn(1, &isNull);
        MemoryContextSwitchTo(caller);
        if (!isNull)
            metrics = DatumGetJsonbPCopy(value);
    }
    Ia3SpiFinish();
    MemoryContextSwitchTo(caller);
    return metrics;
}

static void
read_training(const Ia3Task *task, Training *t)
{
    Jsonb *metrics = fetch_metrics(task);
    JsonbContainer *curve;

    t->curve.n = 0;
    t->steps = t->loss = t->examples = t->seconds = NAN;
    if (metrics == NULL || !JB_ROOT_IS_OBJECT(metrics))
        return;
    t->steps = Ia3JsonNumber(&metrics->root, "steps");
    t->loss = Ia3JsonNumber(&metrics->root, "loss");
    t->examples = Ia3JsonNumber(&metrics->root, "examples");
    t->seconds = Ia3JsonNumber(&metrics->root, "seconds");
    curve = Ia3JsonArray(&metrics->root, "loss_curve");
    if (curve != NULL)
        Ia3LossCurveRead(curve, &t->curve);
    if (!(t->steps >= t->curve.n))
        t->steps = t->curve.n; /* metrics that ia3_train has not written */
}

/*
 * Losses
 */

/* The middle of the range of steps that a point of the curve is the mean of. */
static double
point_step(const Training *t, int i)
{
    return (i + 0.5) * t->steps / t->curve.n + 0.5;
}

/* Draws the curve, and a dot at its end. */
static void
draw_curve(const Ia3Chart *chart, const Training *t)
{
    double *steps = palloc(sizeof(double) * t->curve.n);
    int last = 0;

    for (int i = 0; i < t->curve.n; i++) {
        steps[i] = point_step(t, i);
        if (!isnan(t->curve.values[i]))
            last = i;
    }
    Ia3ChartLine(chart, IA3_CHART_MAIN, steps, t->curve.values, t->curve.n);
    Ia3ChartDot(chart, IA3_CHART_MAIN, steps[last], t->curve.values[last], NULL);
}

/* "48 examples, 1000 steps, 21.3 s, final loss 0.0312" */
static char *
describe_training(const Training *t)
{
    StringInfoData out;

    initStringInfo(&out);
    if (!isnan(t->examples))
        appendStringInfo(&out, "%.0f example%s, ", t->examples, t->examples == 1 ? "" : "s");
    if (t->steps > 0)
        appendStringInfo(&out, "%.0f step%s, ", t->steps, t->steps == 1 ? "" : "s");
    if (!isnan(t->seconds))
        appendStringInfo(&out, "%.1f s, ", t->seconds);
    if (!isnan(t->loss))
        appendStringInfo(&out, "final loss %.4g, ", t->loss);
    if (out.len > 0)
        out.data[out.len - 2] = '\0';
    return out.data;
}

static void
draw_losses(StringInfo out, const Ia3Task *task, const Training *t)
{
    double low = INFINITY, high = -INFINITY;
    Ia3Chart chart = {.out = out, .left = LEFT, .right = RIGHT, .top = TOP, .bottom = BOTTOM};

    Ia3SvgText(out, LEFT, 30, IA3_SVG_START, "ink", 16, 62, task->label);
    Ia3SvgText(out, LEFT, 50, IA3_SVG_START, "dim", 12, 0, describe_training(t));
    for (int i = 0; i < t->curve.n; i++)
        if (!isnan(t->curve.values[i])) {
            low = Min(low, t->curve.values[i]);
            high = Max(high, t->curve.values[i]);
        }
    if (low > high) {
        Ia3SvgText(out, WIDTH / 2.0, (TOP + BOTTOM) / 2.0, IA3_SVG_MIDDLE, "dim", 13, 0,
                   "no losses are stored with this version");
        return;
    }
    chart.x = Ia3SvgMakeScale(0, t->steps, 5);
    chart.x.step = Max(chart.x.step, 1);
    chart.x.decimals = 0;
    chart.x.high = Max(t->steps, 1); /* the axis ends where the run does, not at a round number */
    chart.y = Ia3SvgMakeScale(Min(low, 0), high, 6);
    Ia3ChartAxes(&chart, "step", "loss");
    draw_curve(&chart, t);
}

/*
 * Confusion matrix
 */

/* What is drawn: the labels that occur; if they are many, only the frequent ones. */
typedef struct Matrix {
    int n;              /* rows and columns */
    const char **names; /* [n] */
    int64 *counts;      /* [n][n], true label by prediction */
    int columns;        /* of the longest name, after truncation */
    double left, top, cell;
    bool upright; /* the names of columns are written upwards */
} Matrix;

typedef struct LabelCount {
    int label;
    int64 n; /* as true label plus as prediction */
} LabelCount;

static int
by_count(const void *a, const void *b)
{
    const LabelCount *x = a, *y = b;

    if (x->n != y->n)
        return x->n > y->n ? -1 : 1;
    return x->label - y->label;
}

/*
 * The row of each label, -1 for one that does not occur; *n becomes the number of rows, *others the number of labels
 * that share the last one.
 */
static int *
place_labels(const Ia3Confusion *c, int *n, int *others)
{
    LabelCount *counts = palloc0(sizeof(LabelCount) * Max(c->labels->n, 1));
    int *place = palloc(sizeof(int) * Max(c->labels->n, 1));
    int used = 0;

    for (int i = 0; i < c->labels->n; i++)
        counts[i].label = i;
    for (int i = 0; i < c->nCells; i++) {
        counts[c->cells[i].label].n += c->cells[i].n;
        counts[c->cells[i].predicted].n += c->cells[i].n;
    }
    qsort(counts, c->labels->n, sizeof(LabelCount), by_count);
    while (used < c->labels->n && counts[used].n > 0)
        used++;
    *others = used > MAX_LABELS ? used - (MAX_LABELS - 1) : 0;
    *n = Min(used, MAX_LABELS);
    for (int i = 0; i < c->labels->n; i++)
        place[i] = -1;
    for (int i = 0; i < used; i++)
        place[counts[i].label] = i < used - *others ? 0 : *n - 1;
    /* labels that are shown one by one keep their order */
    for (int i = 0, next = 0; i < c->labels->n; i++)
        if (place[i] == 0)
            place[i] = next++;
    return place;
}

static Matrix *
make_matrix(const Ia3Confusion *c)
{
    Matrix *m = palloc0(sizeof(Matrix));
    int others, *place = place_labels(c, &m->n, &others);

    m->names = palloc0(sizeof(char *) * m->n);
    m->counts = palloc0(sizeof(int64) * m->n * m->n);
    for (int i = 0; i < c->labels->n; i++)
        if (place[i] >= 0)
            m->names[place[i]] = c->labels->items[i];
    if (others > 0)
        m->names[m->n - 1] = psprintf("(%d others)", others);
    for (int i = 0; i < c->nCells; i++)
        m->counts[place[c->cells[i].label] * m->n + place[c->cells[i].predicted]] += c->cells[i].n;
    for (int i = 0; i < m->n; i++)
        m->columns = Max(m->columns, Min(Ia3SvgColumns(m->names[i]), LABEL_COLUMNS));
    m->left = Max(LEFT, 44 + m->columns * COLUMN_WIDTH);
    m->cell = floor(Min(56, (RIGHT - m->left) / m->n));
    m->upright = m->columns * COLUMN_WIDTH > m->cell - 6;
    m->top = LOSS_HEIGHT + 90 + (m->upright ? m->columns * COLUMN_WIDTH : 14);
    return m;
}

static void
draw_names(StringInfo out, const Matrix *m)
{
    for (int i = 0; i < m->n; i++) {
        double middle = (i + 0.5) * m->cell;

        Ia3SvgText(out, m->left - 8, m->top + middle + 4, IA3_SVG_END, "dim", LABEL_SIZE, LABEL_COLUMNS,
                   m->names[i]);
        if (m->upright) {
            appendStringInfo(out, "<g transform=\"translate(%.1f %.1f) rotate(-90)\">", m->left + middle + 4,
                             m->top - 8);
            Ia3SvgText(out, 0, 0, IA3_SVG_START, "dim", LABEL_SIZE, LABEL_COLUMNS, m->names[i]);
            appendStringInfoString(out, "</g>\n");
        } else
            Ia3SvgText(out, m->left + middle, m->top - 8, IA3_SVG_MIDDLE, "dim", LABEL_SIZE, LABEL_COLUMNS,
                       m->names[i]);
    }
    Ia3SvgText(out, m->left, LOSS_HEIGHT + 68, IA3_SVG_START, "dim", 12, 0, "predicted");
    appendStringInfo(out, "<g transform=\"translate(18 %.1f) rotate(-90)\">", m->top + m->n * m->cell / 2);
    Ia3SvgText(out, 0, 0, IA3_SVG_MIDDLE, "dim", 12, 0, "truth");
    appendStringInfoString(out, "</g>\n");
}

/* At most four characters. */
static char *
short_count(int64 n)
{
    static const char units[] = " kMGT";
    int unit = 0;

    if (n < 10000)
        return psprintf(INT64_FORMAT, n);
    for (; n >= 1000 && unit < 4; unit++)
        n /= 1000;
    return psprintf(INT64_FORMAT "%c", n, units[unit]);
}

/* Draws a cell; the larger its share of the rows with this true label, the darker it is. */
static void
draw_cell(StringInfo out, const Matrix *m, int row, int column, double share)
{
    int64 n = m->counts[row * m->n + column];
    double x = m->left + column * m->cell, y = m->top + row * m->cell;
    int size = m->cell >= 30 ? 13 : m->cell >= 22 ? 10 : 8;

    appendStringInfo(out,
                     "<rect class=\"ia3-cell\" x=\"%.1f\" y=\"%.1f\" width=\"%.1f\" height=\"%.1f\""
                     " fill=\"#08519c\" fill-opacity=\"%.3f\"><title>",
                     x + 1, y + 1, m->cell - 2, m->cell - 2, 0.06 + 0.94 * share);
    Ia3SvgAppendEscaped(out, m->names[row]);
    appendStringInfoString(out, " &#8594; ");
    Ia3SvgAppendEscaped(out, m->names[column]);
    appendStringInfo(out, ": " INT64_FORMAT "</title></rect>\n", n);
    if (n == 0)
        return;
    /* text on a dark cell is white on light and dark pages alike */
    if (share > 0.6)
        appendStringInfo(out,
                         "<text x=\"%.1f\" y=\"%.1f\" font-size=\"%d\" fill=\"#ffffff\""
                         " text-anchor=\"middle\">%s</text>\n",
                         x + m->cell / 2, y + m->cell / 2 + size * 0.36, size, short_count(n));
    else
        Ia3SvgText(out, x + m->cell / 2, y + m->cell / 2 + size * 0.36, IA3_SVG_MIDDLE, "ink", size, 0,
                   short_count(n));
}

static void
draw_matrix(StringInfo out, const Matrix *m, const Ia3Confusion *c)
{
    Ia3SvgText(out, LEFT, LOSS_HEIGHT + 22, IA3_SVG_START, "ink", 14, 0, "Confusion matrix");
    Ia3SvgText(out, LEFT, LOSS_HEIGHT + 42, IA3_SVG_START, "dim", 12, 0,
               psprintf(INT64_FORMAT " row%s, accuracy %.3f, macro-F1 %.3f", c->n, c->n == 1 ? "" : "s",
                        c->accuracy, c->macroF1));
    draw_names(out, m);
    for (int i = 0; i < m->n; i++) {
        int64 total = 0;

        for (int k = 0; k < m->n; k++)
            total += m->counts[i * m->n + k];
        for (int k = 0; k < m->n; k++)
            draw_cell(out, m, i, k, total > 0 ? (double) m->counts[i * m->n + k] / total : 0);
    }
}

/* `confusion` is NULL when there was no query. */
static text *
plot(const Ia3Task *task, const Ia3Confusion *confusion)
{
    StringInfoData out;
    Training training;
    Matrix *matrix = confusion ? make_matrix(confusion) : NULL;
    int height = matrix ? (int) (matrix->top + matrix->n * matrix->cell + 24) : LOSS_HEIGHT;

    read_training(task, &training);
    initStringInfo(&out);
    Ia3SvgBegin(&out, WIDTH, height, psprintf("ia3 task %s", task->label));
    draw_losses(&out, task, &training);
    if (matrix)
        draw_matrix(&out, matrix, confusion);
    Ia3SvgEnd(&out);
    return cstring_to_text_with_len(out.data, out.len);
}

Datum
ia3_plot(PG_FUNCTION_ARGS)
{
    PG_RETURN_TEXT_P(plot(Ia3TaskLookup(text_to_cstring(PG_GETARG_TEXT_PP(0))), NULL));
}

Datum
ia3_plot_version(PG_FUNCTION_ARGS)
{
    char *reference = psprintf("%s@%d", text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_GETARG_INT32(1));

    PG_RETURN_TEXT_P(plot(Ia3TaskLookup(reference), NULL));
}

Datum
ia3_plot_query(PG_FUNCTION_ARGS)
{
    char *query = text_to_cstring(PG_GETARG_TEXT_PP(1));
    Ia3Confusion *confusion;

    /* a version that a client sent without its type */
    if (*query != '\0' && strspn(query, "0123456789") == strlen(query))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("the query is a number"),
                        errhint("To plot a version of a task, call ia3_plot_version(task, version).")));
    confusion =
        Ia3Evaluate(text_to_cstring(PG_GETARG_TEXT_PP(0)), query, IA3_TASK_MIN_PROBABILITY, "ia3_plot");
    PG_RETURN_TEXT_P(plot(confusion->task, confusion));
}
