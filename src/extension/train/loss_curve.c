/*
 * loss_curve.c
 *     The metrics of a training run as they are stored, and ia3_sparkline, which shows losses as a line of text.
 */
#include "postgres.h"

#include <math.h>

#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/numeric.h"

#include "extension/tasks/json_text.h"
#include "loss_curve.h"

PG_FUNCTION_INFO_V1(ia3_json_number);
PG_FUNCTION_INFO_V1(ia3_sparkline);
PG_FUNCTION_INFO_V1(ia3_sparkline_text);

#define SPARKLINE_CHARS 20

static double
number(const JsonbValue *value)
{
    double v;

    if (value == NULL || value->type != jbvNumeric)
        return NAN;
    /* numeric_float8 would raise an ERROR for a number that no float8 can hold */
    v = DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(value->val.numeric)));
    return isfinite(v) ? v : NAN;
}

static JsonbValue *
member(JsonbContainer *object, const char *name, int len)
{
    JsonbValue key;

    key.type = jbvString;
    key.val.string.val = (char *) name;
    key.val.string.len = len;
    return findJsonbValueFromContainer(object, JB_FOBJECT, &key);
}

double
Ia3JsonNumber(JsonbContainer *object, const char *name)
{
    return number(member(object, name, strlen(name)));
}

JsonbContainer *
Ia3JsonArray(JsonbContainer *object, const char *name)
{
    JsonbValue *value = member(object, name, strlen(name));

    if (value == NULL || value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
        return NULL;
    return value->val.binary.data;
}

bool
Ia3LossCurveRead(JsonbContainer *array, Ia3LossCurve *curve)
{
    if (!JsonContainerIsArray(array) || JsonContainerIsScalar(array))
        return false;
    curve->n = JsonContainerSize(array);
    curve->values = palloc(sizeof(double) * Max(curve->n, 1));
    for (int i = 0; i < curve->n; i++) {
        JsonbValue *value = getIthJsonbValueFromContainer(array, i);

        CHECK_FOR_INTERRUPTS();
        curve->values[i] = number(value);
        pfree(value);
    }
    return true;
}

/* The mean of the numbers in [from, to); NaN when there is none. */
static double
mean(const double *values, int from, int to)
{
    double sofar = 0;
    int n = 0;

    for (int i = from; i < to; i++) {
        CHECK_FOR_INTERRUPTS();
        if (isnan(values[i]))
            continue;
        n++;
        sofar += values[i] / n - sofar / n; /* adding up first might overflow */
    }
    return n > 0 ? sofar : NAN;
}

/* Appends one character of a sparkline. Other encodings than UTF-8 may lack the blocks, so they get digits 1 to 8. */
static void
append_level(StringInfo out, int level)
{
    if (GetDatabaseEncoding() == PG_UTF8)
        appendStringInfo(out, "\xe2\x96%c", (char) (0x81 + level)); /* U+2581 to U+2588 */
    else
        appendStringInfoChar(out, '1' + level);
}

/*
 * Draws at most 20 characters, from a lower eighth for the lowest value to a full block for the highest; a space
 * stands where there is no number. NULL for a value that is not an array.
 */
static text *
sparkline(Jsonb *json)
{
    Ia3LossCurve curve;
    StringInfoData out;
    double points[SPARKLINE_CHARS], low = INFINITY, high = -INFINITY;
    int n;

    if (!Ia3LossCurveRead(&json->root, &curve))
        return NULL;
    n = Min(curve.n, SPARKLINE_CHARS);
    for (int i = 0; i < n; i++) {
        points[i] =
            mean(curve.values, (int) ((int64) i * curve.n / n), (int) ((int64) (i + 1) * curve.n / n));
        if (!isnan(points[i])) {
            low = Min(low, points[i]);
            high = Max(high, points[i]);
        }
    }
    initStringInfo(&out);
    for (int i = 0; i < n; i++) {
        /* halved, because high - low might overflow */
        double share = high > low ? (points[i] / 2 - low / 2) / (high / 2 - low / 2) : 0;

        if (isnan(points[i]))
            appendStringInfoChar(&out, ' ');
        else
            append_level(&out, Min((int) (share * 8), 7));
    }
    return cstring_to_text_with_len(out.data, out.len);
}

Datum
ia3_json_number(PG_FUNCTION_ARGS)
{
    text *name = PG_GETARG_TEXT_PP(1);
    double v = number(member(&PG_GETARG_JSONB_P(0)->root, VARDATA_ANY(name), VARSIZE_ANY_EXHDR(name)));

    if (isnan(v))
        PG_RETURN_NULL();
    PG_RETURN_FLOAT8(v);
}

static Datum
return_sparkline(FunctionCallInfo fcinfo, Jsonb *json)
{
    text *line = sparkline(json);

    if (line == NULL)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(line);
}

Datum
ia3_sparkline(PG_FUNCTION_ARGS)
{
    return return_sparkline(fcinfo, PG_GETARG_JSONB_P(0));
}

Datum
ia3_sparkline_text(PG_FUNCTION_ARGS)
{
    return return_sparkline(fcinfo, Ia3JsonbFromText(PG_GETARG_DATUM(0)));
}
