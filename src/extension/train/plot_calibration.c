/*
 * plot_calibration.c
 *     ia3_plot_calibration: how often a version is right where it says that it is (a reliability diagram), as an SVG picture.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/memutils.h"

#include "calibration.h"
#include "chart.h"
#include "extension/tasks/versions.h"
#include "scored_rows.h"

PG_FUNCTION_INFO_V1(ia3_plot_calibration);
PG_FUNCTION_INFO_V1(ia3_plot_calibration_query);

#define WIDTH  520
#define HEIGHT 576
#define LEFT   64
#define RIGHT  496
#define TOP    100
#define BOTTOM 516

/* Rows, and how their probabilities are made. */
typedef struct Diagram {
    const Ia3Task *task;
    const char *rows; /* what they are: "held-out " or "" */
    Ia3HeldOut heldOut;
    const double *temperature; /* by fold; NULL: the version is not calibrated */
} Diagram;

static void
draw_bins(const Ia3Chart *chart, Ia3ChartLook look, const Ia3Predicted *predicted, int n)
{
    Ia3CalibrationBin bins[IA3_CALIBRATION_BINS];
    int nBins = Ia3CalibrationBins(predicted, n, bins);
    double x[IA3_CALIBRATION_BINS], y[IA3_CALIBRATION_BINS];

    for (int b = 0; b < nBins; b++) {
        Ia3Interval interval = Ia3WilsonInterval((int64) (bins[b].accuracy * bins[b].n + 0.5), bins[b].n);

        x[b] = bins[b].probability;
        y[b] = bins[b].accuracy;
        if (look == IA3_CHART_MAIN)
            Ia3ChartErrorBar(chart, x[b], interval.low, interval.high);
    }
    Ia3ChartLine(chart, look, x, y, nBins);
    for (int b = 0; b < nBins; b++)
        Ia3ChartDot(chart, look, x[b], y[b],
                    psprintf("%d row%s: probability %.3f, accuracy %.3f", bins[b].n,
                             bins[b].n == 1 ? "" : "s", x[b], y[b]));
}

/* Where all dots would be if probabilities were exact. */
static void
draw_diagonal(const Ia3Chart *chart)
{
    appendStringInfo(chart->out,
                     "<line class=\"ia3-grid\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\""
                     " stroke=\"#c8ced4\" stroke-width=\"2\"/>\n",
                     Ia3ChartX(chart, 0), Ia3ChartY(chart, 0), Ia3ChartX(chart, 1), Ia3ChartY(chart, 1));
}

static char *
describe(const char *what, const Ia3Predicted *predicted, int n)
{
    return psprintf("%s: log loss %.3f, calibration error %.3f", what, Ia3MeanLogLoss(predicted, n),
                    Ia3CalibrationError(predicted, n));
}

static text *
draw(const Diagram *d)
{
    int n = d->heldOut.n;
    Ia3Predicted *before = Ia3HeldOutPredict(&d->heldOut, NULL);
    StringInfoData out;
    Ia3Chart chart = {&out, LEFT, RIGHT, TOP, BOTTOM, {0, 1, 0.2, 1}, {0, 1, 0.2, 1}};

    initStringInfo(&out);
    Ia3SvgBegin(&out, WIDTH, HEIGHT, psprintf("calibration of ia3 task %s", d->task->label));
    Ia3SvgText(&out, LEFT, 30, IA3_SVG_START, "ink", 16, 46, d->task->label);
    Ia3SvgText(&out, LEFT, 50, IA3_SVG_START, "dim", 12, 0,
               psprintf("%d %srow%s, accuracy %.3f", n, d->rows, n == 1 ? "" : "s", Ia3Accuracy(before, n)));
    Ia3ChartAxes(&chart, "mean probability of the prediction", "accuracy");
    draw_diagonal(&chart);
    if (d->temperature == NULL) {
        Ia3SvgText(&out, LEFT, 68, IA3_SVG_START, "dim", 12, 0, describe("not calibrated", before, n));
        draw_bins(&chart, IA3_CHART_MAIN, before, n);
    } else {
        Ia3Predicted *after = Ia3HeldOutPredict(&d->heldOut, d->temperature);

        Ia3SvgText(&out, LEFT, 68, IA3_SVG_START, "dim", 12, 0,
                   describe("before calibration (dashed)", before, n));
        Ia3SvgText(&out, LEFT, 86, IA3_SVG_START, "dim", 12, 0,
                   describe(psprintf("after, temperature %.3g", d->task->temperature), after, n));
        draw_bins(&chart, IA3_CHART_OTHER, before, n);
        draw_bins(&chart, IA3_CHART_MAIN, after, n);
    }
    Ia3SvgEnd(&out);
    return cstring_to_text_with_len(out.data, out.len);
}

/* The rows that the version is calibrated with. ERROR 55000 if there are none, 42501 if the caller may not see them. */
static Ia3HeldOut *
held_out_rows(const Ia3Task *task)
{
    Ia3HeldOut *heldOut;

    Ia3TaskRefuseMultiLabel(task, "ia3_plot_calibration", NULL);
    if (task->temperature == 0)
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("version \"%s\" is not calibrated", task->label),
                        errhint("Calibrate it with ia3_calibrate, or specify a query with labelled rows.")));
    heldOut = Ia3HeldOutRead(task, IA3_HELD_OUT_CALLER);
    if (heldOut == NULL) {
        Ia3VersionsCheckOwner(task->name);
        ereport(ERROR, (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
                        errmsg("version \"%s\" has no held-out scores", task->label),
                        errdetail("Whoever copied or exported the task did not own it."),
                        errhint("Specify a query with labelled rows.")));
    }
    return heldOut;
}

Datum
ia3_plot_calibration(PG_FUNCTION_ARGS)
{
    Ia3Task *task = Ia3TaskLookup(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    Ia3HeldOut *heldOut = held_out_rows(task);
    Diagram d = {task, "held-out ", *heldOut, Ia3TemperatureByFold(heldOut)};

    PG_RETURN_TEXT_P(draw(&d));
}

typedef struct Collector {
    MemoryContext context;
    int capacity;
    Ia3HeldOut *rows;
} Collector;

static void
collect_row(const Ia3ScoredRow *scored, void *arg)
{
    Collector *c = arg;
    const Ia3Ranking *ranking = scored->answers[0].ranking;
    Ia3HeldOutRow *row;

    if (c->rows->n == c->capacity) {
        c->capacity *= 2;
        c->rows->rows = repalloc_huge(c->rows->rows, sizeof(Ia3HeldOutRow) * (Size) c->capacity);
    }
    row = &c->rows->rows[c->rows->n++];
    row->fold = 0;
    row->label = scored->answers[0].gold;
    row->n = ranking->n;
    row->scores = MemoryContextAlloc(c->context, sizeof(double) * ranking->n);
    for (int i = 0; i < ranking->n; i++)
        row->scores[ranking->choices[i].position] = ranking->choices[i].score;
}

Datum
ia3_plot_calibration_query(PG_FUNCTION_ARGS)
{
    Ia3Task *task = Ia3ScoringTask(text_to_cstring(PG_GETARG_TEXT_PP(0)), "ia3_plot_calibration");
    Diagram d = {task, "", {0}, task->temperature > 0 ? &task->temperature : NULL};
    Collector collector = {CurrentMemoryContext, 256, &d.heldOut};

    d.heldOut.rows = palloc(sizeof(Ia3HeldOutRow) * collector.capacity);
    (void) Ia3ScoreRows(&task, 1, text_to_cstring(PG_GETARG_TEXT_PP(1)), collect_row, &collector);
    PG_RETURN_TEXT_P(draw(&d));
}
