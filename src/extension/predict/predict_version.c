/*
 * predict_version.c
 *     ia3_predict_version: a prediction that never changes, for indexes, generated columns and other stored expressions.
 *
 * The function is IMMUTABLE: everything that decides the answer was stored with the version, whose row never changes
 * (Ia3TaskLookupVersion). A threshold is not stored with a version, so there is always an answer.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "classify.h"

PG_FUNCTION_INFO_V1(ia3_predict_version_text);
PG_FUNCTION_INFO_V1(ia3_predict_version_fields);

static Datum
predict_version(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    bool pushed = !ActiveSnapshotSet(); /* constant calls are evaluated wherever expressions are simplified */
    Datum result;

    if (pushed)
        PushActiveSnapshot(GetTransactionSnapshot());
    result = CStringGetTextDatum(Ia3RankingBest(Ia3AnswerCall(fcinfo, form, PG_NARGS(), IA3_ANSWER_ONE), 0));
    if (pushed)
        PopActiveSnapshot();
    return result;
}

Datum
ia3_predict_version_text(PG_FUNCTION_ARGS)
{
    return predict_version(fcinfo, IA3_CALL_VERSION_TEXT);
}

Datum
ia3_predict_version_fields(PG_FUNCTION_ARGS)
{
    return predict_version(fcinfo, IA3_CALL_VERSION_FIELDS);
}
