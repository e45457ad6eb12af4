/*
 * plot_curve.c
 *     ia3_plot_learning_curve: the rows of ia3_learning_curve as an SVG picture.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "arrays.h"
#include "chart.h"
#include "loss_curve.h"

PG_FUNCTION_INFO_V1(ia3_plot_learning_curve);

#define WIDTH  640
#define HEIGHT 360
#define LEFT   64
#define RIGHT  616
#define TOP    76
#define BOTTOM 302

typedef struct Point {
    double size, accuracy;
    double low, high, linear; /* NaN: not given */
    double runs, rows;        /* NaN: not given */
} Point;

typedef struct Curve {
    int n;
    Point *points;
} Curve;

/* A member that has to be a number from min to max if it is there; NaN if it is missing or null. */
static double
read_number(JsonbContainer *object, int row, const char *name, double min, double max)
{
    double value = Ia3JsonNumber(object, name);

    if (value < min || value > max)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("\"%s\" of element %d must be between %.0f and %.0f", name, row, min, max)));
    return value;
}

static void
read_point(JsonbValue *value, int row, Point *point)
{
    JsonbContainer *object;

    if (value->type != jbvBinary || !JsonContainerIsObject(value->val.binary.data))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("element %d of the curve is not an object", row)));
    object = value->val.binary.data;
    point->size = read_number(object, row, "size", 1, PG_INT32_MAX);
    point->accuracy = read_number(object, row, "accuracy", 0, 1);
    point->low = read_number(object, row, "accuracy_low", 0, 1);
    point->high = read_number(object, row, "accuracy_high", 0, 1);
    point->linear = read_number(object, row, "linear_accuracy", 0, 1);
    point->runs = read_number(object, row, "runs", 1, PG_INT32_MAX);
    point->rows = read_number(object, row, "n", 1, PG_INT32_MAX);
    if (isnan(point->size) || isnan(point->accuracy))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("element %d of the curve lacks the number \"%s\"", row,
                               isnan(point->size) ? "size" : "accuracy")));
}

static int
by_size(const void *a, const void *b)
{
    double x = ((const Point *) a)->size, y = ((const Point *) b)->size;

    return x < y ? -1 : x > y;
}

static void
read_curve(Jsonb *json, Curve *curve)
{
    JsonbContainer *array = &json->root;

    if (!JB_ROOT_IS_ARRAY(json) || JB_ROOT_IS_SCALAR(json) || JB_ROOT_COUNT(json) == 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the curve must be a JSON array with at least one element"),
                        errhint("Use jsonb_agg(c), where c is what ia3_learning_curve returned.")));
    curve->n = JB_ROOT_COUNT(json);
    curve->points = Ia3ArrayOf(curve->n, sizeof(Point));
    for (int i = 0; i < curve->n; i++) {
        JsonbValue *value = getIthJsonbValueFromContainer(array, i);

        CHECK_FOR_INTERRUPTS();
        read_point(value, i + 1, &curve->points[i]);
        pfree(value);
    }
    qsort(curve->points, curve->n, sizeof(Point), by_size);
    for (int i = 1; i < curve->n; i++)
        if (curve->points[i].size == curve->points[i - 1].size)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("size %.0f occurs more than once", curve->points[i].size)));
}

/* The axis of accuracies encloses all that is drawn, and is within 0 and 1. */
static Ia3SvgScale
accuracy_scale(const Curve *curve)
{
    double low = 1, high = 0;
    Ia3SvgScale scale;

    for (int i = 0; i < curve->n; i++) {
        const Point *p = &curve->points[i];
        double values[] = {p->accuracy, p->low, p->high, p->linear};

        for (int k = 0; k < lengthof(values); k++)
            if (!isnan(values[k])) {
                low = Min(low, values[k]);
                high = Max(high, values[k]);
            }
    }
    scale = Ia3SvgMakeScale(Max(low - 0.02, 0), Min(high + 0.02, 1), 6);
    scale.low = Max(scale.low, 0);
    scale.high = Min(scale.high, 1);
    return scale;
}

static void
draw_linear(const Ia3Chart *chart, const Curve *curve, const double *sizes)
{
    double *linear = Ia3ArrayOf(curve->n, sizeof(double));
    bool any = false;

    for (int i = 0; i < curve->n; i++) {
        linear[i] = curve->points[i].linear;
        any |= !isnan(linear[i]);
    }
    if (!any)
        return;
    Ia3ChartLine(chart, IA3_CHART_OTHER, sizes, linear, curve->n);
    for (int i = 0; i < curve->n; i++)
        if (!isnan(linear[i]))
            Ia3ChartDot(chart, IA3_CHART_OTHER, sizes[i], linear[i],
                        psprintf(_("%.0f rows: bag of words %.3f"), sizes[i], linear[i]));
    Ia3SvgText(chart->out, RIGHT, 50, IA3_SVG_END, "dim", 12, 0, "dashed: bag of words");
}

static void
draw_accuracy(const Ia3Chart *chart, const Curve *curve, const double *sizes)
{
    double *accuracy = Ia3ArrayOf(curve->n, sizeof(double));

    for (int i = 0; i < curve->n; i++)
        accuracy[i] = curve->points[i].accuracy;
    Ia3ChartLine(chart, IA3_CHART_MAIN, sizes, accuracy, curve->n);
    for (int i = 0; i < curve->n; i++) {
        const Point *p = &curve->points[i];
        bool bar = !isnan(p->low) && !isnan(p->high);

        if (bar)
            Ia3ChartErrorBar(chart, p->size, p->low, p->high);
        Ia3ChartDot(chart, IA3_CHART_MAIN, p->size, p->accuracy,
                    bar ? psprintf("%.0f rows: %.3f (%.3f to %.3f)", p->size, p->accuracy, p->low, p->high)
                        : psprintf("%.0f rows: %.3f", p->size, p->accuracy));
    }
}

/* "50 rows, 5 runs of each size, bars: 95 % intervals" */
static char *
describe(const Curve *curve)
{
    StringInfoData out;
    const Point *first = &curve->points[0];

    initStringInfo(&out);
    if (!isnan(first->rows))
        appendStringInfo(&out, "predicted rows: %.0f, ", first->rows);
    if (!isnan(first->runs))
        appendStringInfo(&out, "runs of each size: %.0f, ", first->runs);
    if (!isnan(first->low) && !isnan(first->high))
        appendStringInfoString(&out, "bars: 95 % intervals, ");
    if (out.len > 0)
        out.data[out.len - 2] = '\0';
    return out.data;
}

Datum
ia3_plot_learning_curve(PG_FUNCTION_ARGS)
{
    StringInfoData out;
    Curve curve;
    Ia3Chart chart = {.out = &out, .left = LEFT, .right = RIGHT, .top = TOP, .bottom = BOTTOM};
    double *sizes;

    read_curve(PG_GETARG_JSONB_P(0), &curve);
    sizes = Ia3ArrayOf(curve.n, sizeof(double));
    for (int i = 0; i < curve.n; i++)
        sizes[i] = curve.points[i].size;
    chart.x = Ia3SvgMakeScale(0, sizes[curve.n - 1], 6);
    chart.x.step = Max(chart.x.step, 1);
    chart.x.decimals = 0;
    chart.y = accuracy_scale(&curve);
    initStringInfo(&out);
    Ia3SvgBegin(&out, WIDTH, HEIGHT, "ia3 learning curve");
    Ia3SvgText(&out, LEFT, 30, IA3_SVG_START, "ink", 16, 0, "Learning curve");
    Ia3SvgText(&out, LEFT, 50, IA3_SVG_START, "dim", 12, 0, describe(&curve));
    Ia3ChartAxes(&chart, "training rows", "accuracy");
    draw_linear(&chart, &curve, sizes);
    draw_accuracy(&chart, &curve, sizes);
    Ia3SvgEnd(&out);
    PG_RETURN_TEXT_P(cstring_to_text_with_len(out.data, out.len));
}
