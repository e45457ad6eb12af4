/*
 * conformal.c
 *     The threshold of split conformal prediction, and ia3.conformal_quantile.
 */
#include "postgres.h"

#include <math.h>

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/float.h"

#include "conformal.h"

PG_FUNCTION_INFO_V1(ia3_conformal_quantile);

/* What rounding may add to a product that is an integer. */
#define ROUNDING 1e-9

void
Ia3CheckCoverage(double coverage)
{
    if (!(coverage >= 0 && coverage <= 1))
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("coverage must be between 0 and 1")));
}

static int
compare_scores(const void *a, const void *b)
{
    double x = *(const double *) a, y = *(const double *) b;

    return x < y ? -1 : x > y;
}

double
Ia3ConformalQuantile(double *scores, int n, double coverage)
{
    double k = ceil(((double) n + 1) * coverage - ROUNDING);

    if (k > n)
        return get_float8_infinity();
    if (k < 1)
        return -get_float8_infinity();
    qsort(scores, n, sizeof(double), compare_scores);
    return scores[(int) k - 1];
}

/* The numbers of an array without nulls and NaNs. */
static double *
read_scores(ArrayType *array, int *n)
{
    Datum *elements;
    bool *nulls;
    double *scores;

    deconstruct_array(array, FLOAT8OID, sizeof(float8), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE, &elements, &nulls,
                      n);
    scores = palloc_extended(sizeof(double) * Max((Size) *n, 1), MCXT_ALLOC_HUGE);
    for (int i = 0; i < *n; i++) {
        if (nulls[i])
            ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("scores must not contain nulls"),
                            errdetail("Element %d is null.", i + 1)));
        scores[i] = DatumGetFloat8(elements[i]);
        if (isnan(scores[i]))
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("scores must be numbers"),
                            errdetail("Element %d is NaN.", i + 1)));
    }
    return scores;
}

Datum
ia3_conformal_quantile(PG_FUNCTION_ARGS)
{
    double coverage = PG_GETARG_FLOAT8(1), *scores;
    int n;

    Ia3CheckCoverage(coverage);
    scores = read_scores(PG_GETARG_ARRAYTYPE_P(0), &n);
    PG_RETURN_FLOAT8(Ia3ConformalQuantile(scores, n, coverage));
}
