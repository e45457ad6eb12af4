/*
 * svg.c
 *     Elements of SVG pictures.
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"

#include "svg.h"

static const char style[] =
    "<style>.ia3-dim,.ia3-ink{font-family:system-ui,\"Segoe UI\",\"DejaVu Sans\",sans-serif}"
    "@media (prefers-color-scheme:dark){.ia3-bg{fill:#0d1117}.ia3-ink{fill:#e6edf3}"
    ".ia3-dim{fill:#9aa4af}.ia3-grid{stroke:#2a313a}.ia3-axis{stroke:#6e7681}"
    ".ia3-curve{stroke:#6cb0ff}.ia3-dot{fill:#6cb0ff}.ia3-cell{fill:#1f6feb}}</style>\n";

void
Ia3SvgBegin(StringInfo out, int width, int height, const char *title)
{
    appendStringInfo(out,
                     "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\""
                     " viewBox=\"0 0 %d %d\" role=\"img\" font-family=\"sans-serif\">\n<title>",
                     width, height, width, height);
    Ia3SvgAppendEscaped(out, title);
    appendStringInfo(out,
                     "</title>\n%s<rect class=\"ia3-bg\" width=\"%d\" height=\"%d\" fill=\"#ffffff\"/>\n",
                     style, width, height);
}

void
Ia3SvgEnd(StringInfo out)
{
    appendStringInfoString(out, "</svg>\n");
}

/* U+FFFE and U+FFFF are the only multibyte characters that a database may contain, but XML may not. */
static bool
is_noncharacter(const char *p, int len)
{
    return GetDatabaseEncoding() == PG_UTF8 && len == 3 && (uint8) p[0] == 0xef && (uint8) p[1] == 0xbf &&
           (uint8) p[2] >= 0xbe;
}

void
Ia3SvgAppendEscaped(StringInfo out, const char *string)
{
    for (const char *p = string; *p;) {
        int len = pg_mblen(p);

        if (len > 1 && !is_noncharacter(p, len))
            appendBinaryStringInfo(out, p, len);
        else if (*p == '&')
            appendStringInfoString(out, "&amp;");
        else if (*p == '<')
            appendStringInfoString(out, "&lt;");
        else if (*p == '>')
            appendStringInfoString(out, "&gt;");
        else if (*p == '"')
            appendStringInfoString(out, "&quot;");
        else if (*p == '\'')
            appendStringInfoString(out, "&#39;");
        else if (*p == '\t' || *p == '\n' || *p == '\r')
            appendStringInfoChar(out, ' ');
        else if (len > 1 || (uint8) *p < 0x20)
            appendStringInfoString(out, "&#65533;");
        else
            appendStringInfoChar(out, *p);
        p += len;
    }
}

/* Control characters take one column, since they are shown as U+FFFD or as a space. */
static int
columns_of(const char *p)
{
    return Max(pg_dsplen(p), (uint8) *p < 0x20 || *p == 0x7f ? 1 : 0);
}

int
Ia3SvgColumns(const char *text)
{
    int columns = 0;

    for (const char *p = text; *p; p += pg_mblen(p))
        columns += columns_of(p);
    return columns;
}

/* The beginning of a text, leaving one column for the ellipsis. */
static char *
cut(const char *text, int columns)
{
    const char *p = text;

    for (int used = 0; *p; p += pg_mblen(p)) {
        used += columns_of(p);
        if (used > columns - 1)
            break;
    }
    return pnstrdup(text, p - text);
}

void
Ia3SvgText(StringInfo out, double x, double y, Ia3SvgAnchor anchor, const char *kind, int size, int columns,
           const char *text)
{
    static const char *const anchors[] = {"start", "middle", "end"};
    bool isTitle = strcmp(kind, "ink") == 0;

    appendStringInfo(out, "<text class=\"ia3-%s\" x=\"%.1f\" y=\"%.1f\" font-size=\"%d\" fill=\"%s\"", kind,
                     x, y, size, isTitle ? "#1f2328" : "#59636e");
    if (anchor != IA3_SVG_START)
        appendStringInfo(out, " text-anchor=\"%s\"", anchors[anchor]);
    appendStringInfoChar(out, '>');
    if (columns > 0 && Ia3SvgColumns(text) > columns) {
        appendStringInfoString(out, "<title>");
        Ia3SvgAppendEscaped(out, text);
        appendStringInfoString(out, "</title>");
        Ia3SvgAppendEscaped(out, cut(text, columns));
        appendStringInfoString(out, "&#8230;");
    } else
        Ia3SvgAppendEscaped(out, text);
    appendStringInfoString(out, "</text>\n");
}

Ia3SvgScale
Ia3SvgMakeScale(double low, double high, int parts)
{
    static const double round[] = {1, 2, 5, 10};
    Ia3SvgScale scale;
    double rough, power;
    int i = 0;

    if (!(high > low)) {
        high = low + Max(fabs(low), 1) / 2;
        low = low - Max(fabs(low), 1) / 2;
    }
    rough = high / parts - low / parts;
    power = pow(10, floor(log10(rough)));
    while (i < 3 && round[i] * power < rough * 0.999)
        i++;
    scale.step = round[i] * power;
    scale.low = floor(low / scale.step + 1e-6) * scale.step;
    scale.high = ceil(high / scale.step - 1e-6) * scale.step;
    scale.decimals = Min(Max((int) -floor(log10(scale.step) + 1e-6), 0), 12);
    return scale;
}
