/*
 * svg.h
 *     Pieces of an SVG picture: text that is escaped, axes with round numbers, the style of all our pictures.
 *
 * Pictures are drawn with presentation attributes for any viewer, and a style sheet on top of them that browsers
 * use when their reader prefers dark pages. They bring their own background, so they can be read on any page.
 */
#ifndef IA3_SVG_H
#define IA3_SVG_H

#include "lib/stringinfo.h"

/* Begins a picture of this size (pixels) with an accessible title. */
extern void Ia3SvgBegin(StringInfo out, int width, int height, const char *title);
extern void Ia3SvgEnd(StringInfo out);

/*
 * A string as character data or attribute value: escaped, without the characters that XML 1.0 does not allow
 * (each becomes U+FFFD). `string` is in server encoding, and so is the result.
 */
extern void Ia3SvgAppendEscaped(StringInfo out, const char *string);

typedef enum Ia3SvgAnchor { IA3_SVG_START, IA3_SVG_MIDDLE, IA3_SVG_END } Ia3SvgAnchor;

/*
 * A line of text. `kind` is "ink" (titles) or "dim" (axes and notes); at most `columns` wide (columns of a
 * terminal; 0 = any width): a longer one is cut and shown whole as a tooltip.
 */
extern void Ia3SvgText(StringInfo out, double x, double y, Ia3SvgAnchor anchor, const char *kind, int size,
                       int columns, const char *text);

/* How many columns a terminal would need. */
extern int Ia3SvgColumns(const char *text);

/* Round numbers that divide an axis: low, low + step, ... up to high, which enclose what was asked for. */
typedef struct Ia3SvgScale {
    double low, high, step;
    int decimals; /* that tell the numbers apart */
} Ia3SvgScale;

/* About `parts` parts. low <= high; both finite. */
extern Ia3SvgScale Ia3SvgMakeScale(double low, double high, int parts);

#endif
