/*
 * svg.h
 *     Elements of SVG pictures: escaped text, axes with round numbers, and the style that all our pictures share.
 *
 * Pictures are drawn with presentation attributes, which any viewer understands, and a style sheet on top of them,
 * which browsers use when their user prefers dark pages. They have a background of their own, so they are legible on
 * any page.
 */
#ifndef IA3_SVG_H
#define IA3_SVG_H

#include "lib/stringinfo.h"

/* Begins a picture of this size in pixels, with an accessible title. */
extern void Ia3SvgBegin(StringInfo out, int width, int height, const char *title);
/* Ends the picture. */
extern void Ia3SvgEnd(StringInfo out);

/*
 * Appends a string as character data or as an attribute value: escaped, and with each character that XML 1.0 does not
 * allow replaced by U+FFFD. `string` is in the server encoding, and so is the result.
 */
extern void Ia3SvgAppendEscaped(StringInfo out, const char *string);

typedef enum Ia3SvgAnchor { IA3_SVG_START, IA3_SVG_MIDDLE, IA3_SVG_END } Ia3SvgAnchor;

/*
 * Appends a line of text. `kind` is "ink" for titles or "dim" for axes and notes. A text of more than `columns`
 * terminal columns (0: no limit) is truncated and shown in full as a tooltip.
 */
extern void Ia3SvgText(StringInfo out, double x, double y, Ia3SvgAnchor anchor, const char *kind, int size,
                       int columns, const char *text);

/* The number of columns that a terminal would need for the text. */
extern int Ia3SvgColumns(const char *text);

/* Round numbers that divide an axis: low, low + step, ... up to high. They enclose the requested range. */
typedef struct Ia3SvgScale {
    double low, high, step;
    int decimals; /* needed to tell the numbers apart */
} Ia3SvgScale;

/* An axis of about `parts` parts for finite low <= high. */
extern Ia3SvgScale Ia3SvgMakeScale(double low, double high, int parts);

#endif
