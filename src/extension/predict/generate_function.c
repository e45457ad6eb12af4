/*
 * generate_function.c
 *     ia3_generate: free text from the decoder, greedy or sampled.
 *
 * Greedy calls are generated ahead, like those of ia3_predict (readahead.h). Sampled ones are sent one by one, and
 * the engine combines the waiting calls of all sessions into one batch. Of a task with several templates the first is
 * used.
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"

#include "call.h"
#include "result_cache.h"

PG_FUNCTION_INFO_V1(ia3_generate_text);
PG_FUNCTION_INFO_V1(ia3_generate_fields);
PG_FUNCTION_INFO_V1(ia3_generate_fields_text);
PG_FUNCTION_INFO_V1(ia3_generate_zero_shot);
PG_FUNCTION_INFO_V1(ia3_sample_text);
PG_FUNCTION_INFO_V1(ia3_sample_fields);
PG_FUNCTION_INFO_V1(ia3_sample_fields_text);
PG_FUNCTION_INFO_V1(ia3_sample_zero_shot);

/* Has the engine generate the text of a single call. */
static char *
ask(const Ia3Call *call, Ia3Sampling *sampling)
{
    Ia3CallTask *task = Ia3CallTaskLookup(call);
    Ia3Question question;
    Ia3ScoreRequest *request;
    Ia3ScoreResult *result;

    Ia3QuestionMake(call, task, &question);
    if (question.task)
        Ia3TaskCheckBackbone(question.task);
    sampling->maxTokens = question.maxTokens;
    request = Ia3GenerateCreate(question.backbone);
    Ia3GenerateAddRow(request, Ia3ScoreAddAdapter(request, question.task), sampling, &question.input);
    result = Ia3ScoreRun(request);
    Ia3ScoreCheck(result, question.task ? psprintf("ia3 task \"%s\"", question.task->label) : NULL);
    return result->text;
}

/* A greedy function is STRICT, and all its arguments belong to the call. */
static Datum
greedy(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    Ia3Call call = {form, PG_NARGS(), {0}};
    const Ia3Ranking *answer;

    for (int i = 0; i < call.nArgs; i++)
        call.args[i] = PG_GETARG_DATUM(i);
    answer = Ia3CacheFind(&call);
    if (answer == NULL)
        answer = Ia3MemoFind(fcinfo->flinfo, &call);
    if (answer == NULL) {
        Ia3Sampling sampling = {0};

        answer = Ia3RankingOfText(ask(&call, &sampling));
        Ia3MemoStore(fcinfo->flinfo, &call, answer);
    }
    PG_RETURN_TEXT_P(cstring_to_text(answer->choices[0].choice));
}

/*
 * The arguments of the call are followed by temperature, top_k and seed. Only the seed may be NULL; it is then drawn
 * at random.
 */
static Datum
sampled(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    int nArgs = PG_NARGS() - 3;
    Ia3Call call = {form, nArgs, {0}};
    Ia3Sampling sampling = {0};

    for (int i = 0; i < PG_NARGS() - 1; i++)
        if (PG_ARGISNULL(i))
            PG_RETURN_NULL();
    for (int i = 0; i < nArgs; i++)
        call.args[i] = PG_GETARG_DATUM(i);
    sampling.temperature = PG_GETARG_FLOAT8(nArgs);
    sampling.topK = PG_GETARG_INT32(nArgs + 1);
    if (!isfinite(sampling.temperature) || sampling.temperature < 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("temperature must be zero or a positive number")));
    if (sampling.topK < 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("top_k must be zero or a positive number")));
    if (!PG_ARGISNULL(nArgs + 2))
        sampling.seed = (uint64) PG_GETARG_INT64(nArgs + 2);
    else if (sampling.temperature > 0 && !pg_strong_random(&sampling.seed, sizeof sampling.seed))
        ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate a random seed")));
    PG_RETURN_TEXT_P(cstring_to_text(ask(&call, &sampling)));
}

Datum
ia3_generate_text(PG_FUNCTION_ARGS)
{
    return greedy(fcinfo, IA3_CALL_GENERATE);
}

Datum
ia3_generate_fields(PG_FUNCTION_ARGS)
{
    return greedy(fcinfo, IA3_CALL_GENERATE_FIELDS);
}

Datum
ia3_generate_fields_text(PG_FUNCTION_ARGS)
{
    return greedy(fcinfo, IA3_CALL_GENERATE_FIELDS_TEXT);
}

Datum
ia3_generate_zero_shot(PG_FUNCTION_ARGS)
{
    return greedy(fcinfo, IA3_CALL_GENERATE_ZERO_SHOT);
}

Datum
ia3_sample_text(PG_FUNCTION_ARGS)
{
    return sampled(fcinfo, IA3_CALL_GENERATE);
}

Datum
ia3_sample_fields(PG_FUNCTION_ARGS)
{
    return sampled(fcinfo, IA3_CALL_GENERATE_FIELDS);
}

Datum
ia3_sample_fields_text(PG_FUNCTION_ARGS)
{
    return sampled(fcinfo, IA3_CALL_GENERATE_FIELDS_TEXT);
}

Datum
ia3_sample_zero_shot(PG_FUNCTION_ARGS)
{
    return sampled(fcinfo, IA3_CALL_GENERATE_ZERO_SHOT);
}
