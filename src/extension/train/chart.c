/*
 * chart.c
 *     Charts in SVG pictures: a pair of axes, and what is drawn between them.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"

#include "chart.h"

#define TICK 4   /* length of the marks below the horizontal axis */
#define CAP  4.5 /* half the width of an error bar's caps */

static double
along(double value, const Ia3SvgScale *scale, double from, double to)
{
    return from + (to - from) * ((value - scale->low) / (scale->high - scale->low));
}

double
Ia3ChartX(const Ia3Chart *chart, double x)
{
    return along(x, &chart->x, chart->left, chart->right);
}

double
Ia3ChartY(const Ia3Chart *chart, double y)
{
    return along(y, &chart->y, chart->bottom, chart->top);
}

/* The number of steps between the ends of an axis, which need not end at a round number. */
static int
steps_of(const Ia3SvgScale *scale)
{
    return (int) floor((scale->high - scale->low) / scale->step + 1e-6);
}

static void
draw_line(StringInfo out, const char *class, const char *color, double x1, double y1, double x2, double y2)
{
    appendStringInfo(out,
                     "<line class=\"%s\" x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"%s\"/>\n",
                     class, x1, y1, x2, y2, color);
}

static void
draw_axis(const Ia3Chart *chart, double x1, double y1, double x2, double y2)
{
    draw_line(chart->out, "ia3-axis", "#8c959f", x1, y1, x2, y2);
}

static void
draw_y_axis(const Ia3Chart *chart, const char *title)
{
    int n = steps_of(&chart->y);

    for (int i = 0; i <= n; i++) {
        double value = chart->y.low + i * chart->y.step, at = Ia3ChartY(chart, value);

        draw_line(chart->out, "ia3-grid", "#e4e8ec", chart->left, at, chart->right, at);
        Ia3SvgText(chart->out, chart->left - 8, at + 4, IA3_SVG_END, "dim", 11, 0,
                   psprintf("%.*f", chart->y.decimals, value));
    }
    appendStringInfo(chart->out, "<g transform=\"translate(%.1f %.1f) rotate(-90)\">", chart->left - 46,
                     (chart->top + chart->bottom) / 2);
    Ia3SvgText(chart->out, 0, 0, IA3_SVG_MIDDLE, "dim", 12, 0, title);
    appendStringInfoString(chart->out, "</g>\n");
}

static void
draw_x_axis(const Ia3Chart *chart, const char *title)
{
    int n = steps_of(&chart->x);

    for (int i = 0; i <= n; i++) {
        double value = chart->x.low + i * chart->x.step, at = Ia3ChartX(chart, value);

        draw_axis(chart, at, chart->bottom, at, chart->bottom + TICK);
        Ia3SvgText(chart->out, at, chart->bottom + 18, IA3_SVG_MIDDLE, "dim", 11, 0,
                   psprintf("%.*f", chart->x.decimals, value));
    }
    draw_axis(chart, chart->left, chart->bottom, chart->right, chart->bottom);
    Ia3SvgText(chart->out, (chart->left + chart->right) / 2, chart->bottom + 38, IA3_SVG_MIDDLE, "dim", 12, 0,
               title);
}

void
Ia3ChartAxes(const Ia3Chart *chart, const char *xTitle, const char *yTitle)
{
    draw_y_axis(chart, yTitle);
    draw_x_axis(chart, xTitle);
}

void
Ia3ChartLine(const Ia3Chart *chart, Ia3ChartLook look, const double *x, const double *y, int n)
{
    StringInfo out = chart->out;
    bool pen = false;

    if (look == IA3_CHART_MAIN)
        appendStringInfoString(
            out, "<path class=\"ia3-curve\" fill=\"none\" stroke=\"#0b6bcb\" stroke-width=\"2\"");
    else
        appendStringInfoString(
            out, "<path class=\"ia3-axis\" fill=\"none\" stroke=\"#8c959f\" stroke-width=\"1.5\""
                 " stroke-dasharray=\"5 4\"");
    appendStringInfoString(out, " stroke-linejoin=\"round\" stroke-linecap=\"round\" d=\"");
    for (int i = 0; i < n; i++) {
        CHECK_FOR_INTERRUPTS();
        if (isnan(y[i])) {
            pen = false;
            continue;
        }
        /* a single point is a line of length zero, which round caps turn into a dot */
        appendStringInfo(out, pen ? "L%.1f %.1f" : "M%.1f %.1fh0", Ia3ChartX(chart, x[i]),
                         Ia3ChartY(chart, y[i]));
        pen = true;
    }
    appendStringInfoString(out, "\"/>\n");
}

void
Ia3ChartDot(const Ia3Chart *chart, Ia3ChartLook look, double x, double y, const char *tip)
{
    bool isMain = look == IA3_CHART_MAIN;

    appendStringInfo(chart->out, "<circle class=\"%s\" cx=\"%.1f\" cy=\"%.1f\" r=\"%.1f\" fill=\"%s\"",
                     isMain ? "ia3-dot" : "ia3-dim", Ia3ChartX(chart, x), Ia3ChartY(chart, y),
                     isMain ? 3.5 : 2.5, isMain ? "#0b6bcb" : "#59636e");
    if (tip != NULL) {
        appendStringInfoString(chart->out, "><title>");
        Ia3SvgAppendEscaped(chart->out, tip);
        appendStringInfoString(chart->out, "</title></circle>\n");
    } else
        appendStringInfoString(chart->out, "/>\n");
}

void
Ia3ChartErrorBar(const Ia3Chart *chart, double x, double low, double high)
{
    double at = Ia3ChartX(chart, x), from = Ia3ChartY(chart, low), to = Ia3ChartY(chart, high);

    appendStringInfo(chart->out,
                     "<path class=\"ia3-curve\" fill=\"none\" stroke=\"#0b6bcb\" stroke-width=\"1.2\""
                     " d=\"M%.1f %.1fH%.1fM%.1f %.1fV%.1fM%.1f %.1fH%.1f\"/>\n",
                     at - CAP, from, at + CAP, at, from, to, at - CAP, to, at + CAP);
}
