/*
 * classify.c
 *     ia3_classify and ia3_predict, and their other names: choices ranked by their likelihood.
 *
 * Most functions are STRICT. Those with min_probability are not, because choices and threshold may be left out; the threshold is
 * not part of what is asked, since an answer has the probability of each choice, and nor are depth and separator. Nor are those
 * with descriptions and verbalizers, which may be NULL, too. An answer is taken from the result cache if it has been predicted
 * ahead (readahead.h), or if the same place of the query has just been called with the same arguments.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "classify.h"
#include "extension/ia3_compat.h"
#include "levels.h"
#include "result_cache.h"

PG_FUNCTION_INFO_V1(ia3_classify_text);
PG_FUNCTION_INFO_V1(ia3_classify_fields);
PG_FUNCTION_INFO_V1(ia3_classify_fields_text);
PG_FUNCTION_INFO_V1(ia3_classify_zero_shot);
PG_FUNCTION_INFO_V1(ia3_classify_zero_shot_worded);
PG_FUNCTION_INFO_V1(ia3_classify_text_levels);
PG_FUNCTION_INFO_V1(ia3_classify_fields_levels);
PG_FUNCTION_INFO_V1(ia3_classify_fields_text_levels);
PG_FUNCTION_INFO_V1(ia3_predict_text);
PG_FUNCTION_INFO_V1(ia3_predict_fields);
PG_FUNCTION_INFO_V1(ia3_predict_fields_text);
PG_FUNCTION_INFO_V1(ia3_predict_zero_shot);
PG_FUNCTION_INFO_V1(ia3_predict_zero_shot_worded);
PG_FUNCTION_INFO_V1(ia3_predict_text_above);
PG_FUNCTION_INFO_V1(ia3_predict_fields_above);
PG_FUNCTION_INFO_V1(ia3_predict_fields_text_above);

/* Has the engine predict a single call. */
static Ia3Ranking *
ask(const Ia3Call *call)
{
    Ia3CallTask *task = Ia3CallTaskLookup(call);
    Ia3Question question;
    Ia3ScoreRequest *request;
    Ia3ScoreResult *result;

    Ia3QuestionMake(call, task, &question);
    if (question.task)
        Ia3TaskCheckBackbone(question.task);
    request = Ia3ScoreCreate(question.backbone);
    Ia3ScoreSetInputTokens(request, Ia3TaskInputTokens(question.task));
    Ia3ScoreAddRow(request, Ia3ScoreAddAdapter(request, question.task),
                   Ia3ScoreAddChoices(request, &question.set), &question.input);
    result = Ia3ScoreRun(request);
    Ia3ScoreCheck(result, question.task ? psprintf("ia3 task \"%s\"", question.task->label) : NULL);
    return Ia3RankingMake(question.task, question.choices, result);
}

/* ERROR unless the answer is of the kind that the function returns. */
static void
check_kind(const Ia3Call *call, const Ia3Ranking *ranking, Ia3AnswerKind kind)
{
    if (kind == IA3_ANSWER_ONE && ranking->multiLabel)
        Ia3CallRefuseMultiLabel(call);
    if (kind == IA3_ANSWER_LABELS && !ranking->multiLabel)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("ia3 task \"%s\" is not a multi-label task", Ia3CallTaskName(call)),
                        errdetail("One of its choices is right."),
                        errhint("Use ia3_predict, or train the task on a query whose labels are arrays.")));
}

const Ia3Ranking *
Ia3Answer(const Ia3Call *call, Ia3AnswerKind kind)
{
    const Ia3Ranking *ranking = Ia3CacheFind(call);

    if (ranking == NULL)
        ranking = ask(call);
    check_kind(call, ranking, kind);
    return ranking;
}

const Ia3Ranking *
Ia3AnswerCall(FunctionCallInfo fcinfo, Ia3CallForm form, int nArgs, Ia3AnswerKind kind)
{
    Ia3Call call = {form, nArgs, {0}};
    const Ia3Ranking *ranking;

    for (int i = 0; i < nArgs; i++)
        call.args[i] = PG_ARGISNULL(i) ? Ia3NoWording() : PG_GETARG_DATUM(i);
    ranking = Ia3CacheFind(&call);
    if (ranking == NULL)
        ranking = Ia3MemoFind(fcinfo->flinfo, &call);
    if (ranking == NULL) {
        ranking = ask(&call);
        Ia3MemoStore(fcinfo->flinfo, &call, ranking);
    }
    check_kind(&call, ranking, kind);
    return ranking;
}

static const Ia3Ranking *
answer(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    return Ia3AnswerCall(fcinfo, form, PG_NARGS(), IA3_ANSWER_ANY);
}

static Datum
return_ranking(FunctionCallInfo fcinfo, const Ia3Ranking *ranking)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

    Ia3InitMaterializedSRF(fcinfo);
    for (int i = 0; i < ranking->n; i++) {
        Datum values[4];
        bool nulls[4] = {false};

        values[0] = CStringGetTextDatum(ranking->choices[i].choice);
        values[1] = Float8GetDatum(ranking->choices[i].score);
        values[2] = Float8GetDatum(ranking->choices[i].probability);
        values[3] = Int32GetDatum(i + 1);
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}

/* ia3_classify(task, input or fields, choices, depth, separator); the last three may be NULL. */
static Datum
classify_levels(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    const Ia3Ranking *ranking;
    const char *separator;
    int depth;

    if (PG_ARGISNULL(0) || PG_ARGISNULL(1)) {
        Ia3InitMaterializedSRF(fcinfo);
        return (Datum) 0;
    }
    depth = Ia3LevelsDepth(fcinfo, 3);
    separator = Ia3LevelsSeparator(fcinfo, 4);
    ranking =
        Ia3AnswerCall(fcinfo, form, PG_ARGISNULL(2) ? 2 : 3, depth > 0 ? IA3_ANSWER_ONE : IA3_ANSWER_ANY);
    return return_ranking(fcinfo, depth > 0 ? Ia3LevelsGroup(ranking, depth, separator) : ranking);
}

/* ia3_predict without min_probability; NULL if no choice is as likely as the task demands. */
static Datum
predict(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    const char *best =
        Ia3RankingBest(Ia3AnswerCall(fcinfo, form, PG_NARGS(), IA3_ANSWER_ONE), IA3_TASK_MIN_PROBABILITY);

    if (best == NULL)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(best));
}

/* ia3_predict(task, input or fields, choices, min_probability); the last two may be NULL. */
static Datum
predict_above(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    const char *best;
    double minProbability;

    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    minProbability = Ia3MinProbability(fcinfo, 3);
    best =
        Ia3RankingBest(Ia3AnswerCall(fcinfo, form, PG_ARGISNULL(2) ? 2 : 3, IA3_ANSWER_ONE), minProbability);
    if (best == NULL)
        PG_RETURN_NULL();
    PG_RETURN_TEXT_P(cstring_to_text(best));
}

Datum
ia3_classify_text(PG_FUNCTION_ARGS)
{
    return return_ranking(fcinfo, answer(fcinfo, IA3_CALL_TEXT));
}

Datum
ia3_classify_fields(PG_FUNCTION_ARGS)
{
    return return_ranking(fcinfo, answer(fcinfo, IA3_CALL_FIELDS));
}

Datum
ia3_classify_fields_text(PG_FUNCTION_ARGS)
{
    return return_ranking(fcinfo, answer(fcinfo, IA3_CALL_FIELDS_TEXT));
}

Datum
ia3_classify_zero_shot(PG_FUNCTION_ARGS)
{
    return return_ranking(fcinfo, answer(fcinfo, IA3_CALL_ZERO_SHOT));
}

Datum
ia3_predict_text(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_TEXT);
}

Datum
ia3_predict_fields(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_predict_fields_text(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_FIELDS_TEXT);
}

Datum
ia3_predict_zero_shot(PG_FUNCTION_ARGS)
{
    return predict(fcinfo, IA3_CALL_ZERO_SHOT);
}

Datum
ia3_predict_text_above(PG_FUNCTION_ARGS)
{
    return predict_above(fcinfo, IA3_CALL_TEXT);
}

Datum
ia3_predict_fields_above(PG_FUNCTION_ARGS)
{
    return predict_above(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_predict_fields_text_above(PG_FUNCTION_ARGS)
{
    return predict_above(fcinfo, IA3_CALL_FIELDS_TEXT);
}

/* With descriptions and verbalizers. NULL as input or choices gives no rows, as if the function were STRICT. */
Datum
ia3_classify_zero_shot_worded(PG_FUNCTION_ARGS)
{
    if (!PG_ARGISNULL(0) && !PG_ARGISNULL(1))
        return return_ranking(fcinfo, answer(fcinfo, IA3_CALL_ZERO_SHOT));
    Ia3InitMaterializedSRF(fcinfo);
    return (Datum) 0;
}

Datum
ia3_predict_zero_shot_worded(PG_FUNCTION_ARGS)
{
    if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
        PG_RETURN_NULL();
    return predict(fcinfo, IA3_CALL_ZERO_SHOT);
}

Datum
ia3_classify_text_levels(PG_FUNCTION_ARGS)
{
    return classify_levels(fcinfo, IA3_CALL_TEXT);
}

Datum
ia3_classify_fields_levels(PG_FUNCTION_ARGS)
{
    return classify_levels(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_classify_fields_text_levels(PG_FUNCTION_ARGS)
{
    return classify_levels(fcinfo, IA3_CALL_FIELDS_TEXT);
}
