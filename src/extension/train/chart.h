/*
 * chart.h
 *     Charts in SVG pictures: a pair of axes, and lines, points and error bars between them.
 *
 * What is drawn is in the units of the axes. It is not clipped, so the axes have to enclose it.
 */
#ifndef IA3_CHART_H
#define IA3_CHART_H

#include "svg.h"

typedef struct Ia3Chart {
    StringInfo out;
    double left, right, top, bottom; /* of the area between the axes, in pixels of the picture */
    Ia3SvgScale x, y;
} Ia3Chart;

/* How a series looks: the one that the chart is about, or one to compare it with, which is thin, gray and dashed. */
typedef enum Ia3ChartLook { IA3_CHART_MAIN, IA3_CHART_OTHER } Ia3ChartLook;

/* Where a value is in the picture. */
extern double Ia3ChartX(const Ia3Chart *chart, double x);
extern double Ia3ChartY(const Ia3Chart *chart, double y);

/* Draws the axes with their numbers, the lines of the grid, and the titles of the axes. */
extern void Ia3ChartAxes(const Ia3Chart *chart, const char *xTitle, const char *yTitle);

/* Draws a line through n points. It is interrupted where y is NaN; a single point becomes a dot. */
extern void Ia3ChartLine(const Ia3Chart *chart, Ia3ChartLook look, const double *x, const double *y, int n);

/* Draws a dot. `tip`, shown as a tooltip, may be NULL. */
extern void Ia3ChartDot(const Ia3Chart *chart, Ia3ChartLook look, double x, double y, const char *tip);

/* Draws a vertical bar from low to high, with caps. */
extern void Ia3ChartErrorBar(const Ia3Chart *chart, double x, double low, double high);

#endif
