/*
 * predict_labels.c
 *     ia3_predict_labels: the choices of a multi-label task that are right.
 *
 * None of these functions is STRICT, since choices and threshold may be NULL. The threshold is not part of what is asked, since
 * an answer has the probability of each choice.
 */
#include "postgres.h"

#include "classify.h"
#include "ranking.h"

PG_FUNCTION_INFO_V1(ia3_predict_labels_text);
PG_FUNCTION_INFO_V1(ia3_predict_labels_fields);
PG_FUNCTION_INFO_V1(ia3_predict_labels_fields_text);

/* ia3_predict_labels(task, input or fields, choices, min_probability); the last two may be NULL. */
static Datum
predict_labels(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    const Ia3Ranking *ranking;
    double minProbability;

    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    minProbability = Ia3MinProbability(fcinfo, 3);
    ranking = Ia3AnswerCall(fcinfo, form, PG_ARGISNULL(2) ? 2 : 3, IA3_ANSWER_LABELS);
    PG_RETURN_DATUM(Ia3StringsToArray(Ia3RankingLabels(ranking, minProbability)));
}

Datum
ia3_predict_labels_text(PG_FUNCTION_ARGS)
{
    return predict_labels(fcinfo, IA3_CALL_TEXT);
}

Datum
ia3_predict_labels_fields(PG_FUNCTION_ARGS)
{
    return predict_labels(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_predict_labels_fields_text(PG_FUNCTION_ARGS)
{
    return predict_labels(fcinfo, IA3_CALL_FIELDS_TEXT);
}
