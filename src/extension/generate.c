/*
 * generate.c
 *     ia3_generate: free text from the decoder, greedy or sampled.
 *
 * The engine puts the rows of all sessions that wait into one batch. A task with several templates is asked
 * with the first one.
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"

#include "call.h"

PG_FUNCTION_INFO_V1(ia3_generate_text);
PG_FUNCTION_INFO_V1(ia3_generate_fields);
PG_FUNCTION_INFO_V1(ia3_generate_zero_shot);

#define MAX_ROUNDS 4 /* of supplying the adapter */

/* How to continue. */
typedef struct Sampling {
    int maxTokens;
    double temperature; /* 0: greedy */
    int topK;           /* 0: all */
    uint64 seed;
} Sampling;

/*
 * The arguments from number `first` on: max_tokens [, temperature, top_k, seed]. False when one of them is NULL,
 * seed excepted, which is then drawn.
 */
static bool
get_sampling(FunctionCallInfo fcinfo, int first, Sampling *s)
{
    memset(s, 0, sizeof *s);
    for (int i = 0; i < PG_NARGS(); i++)
        if (PG_ARGISNULL(i) && i != first + 3)
            return false;
    s->maxTokens = PG_GETARG_INT32(first);
    if (s->maxTokens < 1 || s->maxTokens > IA3_MAX_NEW_TOKENS)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("max_tokens must be between 1 and %d", IA3_MAX_NEW_TOKENS)));
    if (PG_NARGS() == first + 1)
        return true;
    s->temperature = PG_GETARG_FLOAT8(first + 1);
    s->topK = PG_GETARG_INT32(first + 2);
    if (!isfinite(s->temperature) || s->temperature < 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("temperature must be zero or a positive number")));
    if (s->topK < 0)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("top_k must be zero or a positive number")));
    if (!PG_ARGISNULL(first + 3))
        s->seed = (uint64) PG_GETARG_INT64(first + 3);
    else if (s->temperature > 0 && !pg_strong_random(&s->seed, sizeof s->seed))
        ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR), errmsg("could not generate a random seed")));
    return true;
}

static void
write_request(ia3_writer *w, const Ia3Question *question, const Sampling *s)
{
    static const uint8 bare[IA3_DIGEST_LEN];

    ia3_put_u32(w, Ia3MaxInputTokens);
    ia3_put_u32(w, 1);
    ia3_put_bytes(w, question->task ? question->task->digest : bare, IA3_DIGEST_LEN);
    ia3_put_u32(w, 1);
    ia3_put_u32(w, 0);
    Ia3PutInput(w, question->input.text, question->input.len, question->input.tail);
    ia3_put_u32(w, s->maxTokens);
    ia3_put_f64(w, s->temperature);
    ia3_put_u32(w, s->topK);
    ia3_put_u64(w, s->seed);
}

/* The text of the only row, or its error. */
static char *
read_text(ia3_reader *r, const Ia3Question *question)
{
    char *text = NULL, *message = NULL, *detail = NULL, *hint = NULL;
    uint32 code = 0;

    if (ia3_get_u8(r) == 1)
        text = Ia3GetText(r);
    else {
        code = ia3_get_u32(r);
        message = Ia3GetText(r);
        detail = Ia3GetText(r);
        hint = Ia3GetText(r);
    }
    if (r->bad || r->p != r->end)
        Ia3ProtocolError("The generated text does not have the length it should have.");
    if (text == NULL)
        Ia3RaiseEngineError(code, message, detail, hint,
                            question->task ? psprintf("ia3 task \"%s\"", question->task->label) : NULL);
    return text;
}

static char *
generate(const Ia3Question *question, const Sampling *sampling)
{
    for (int round = 0; round < MAX_ROUNDS; round++) {
        ia3_writer *w = Ia3RequestBegin(question->backbone);
        ia3_reader reader;
        uint8 type;

        /* Once more, of the very engine that gets the request. */
        if (question->task)
            Ia3TaskCheckBackbone(question->task);
        write_request(w, question, sampling);
        Ia3RequestSend(IA3_GENERATE);
        type = Ia3ReplyWaitOrRepeat(&reader);
        if (type == IA3_GOODBYE)
            continue;
        if (type == IA3_GENERATE_OK)
            return read_text(&reader, question);
        if (type != IA3_MISSING || question->task == NULL)
            Ia3ProtocolError("The engine did not answer GENERATE with a text.");
        Ia3TaskPutAdapter(question->task);
    }
    ereport(ERROR,
            (errcode(ERRCODE_INTERNAL_ERROR), errmsg("ia3 engine does not keep the adapters it is given"),
             errhint("Raise ia3.adapter_cache_size.")));
    return NULL;
}

static Datum
with_task(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    Ia3Question question = {0};
    Ia3Call call = {.form = form, .nArgs = 2};
    Ia3CallTask *task;
    Sampling sampling;

    if (!get_sampling(fcinfo, 2, &sampling))
        PG_RETURN_NULL();
    call.args[0] = PG_GETARG_DATUM(0);
    call.args[1] = PG_GETARG_DATUM(1);
    task = Ia3CallTaskMake(Ia3TaskLookup(Ia3CallTaskName(&call)));
    Ia3TaskCheckBackbone(task->task);
    question.task = task->task;
    question.backbone = task->task->backbone;
    Ia3CallInput(&call, task, task->task->choices, &question.input);
    PG_RETURN_TEXT_P(cstring_to_text(generate(&question, &sampling)));
}

Datum
ia3_generate_text(PG_FUNCTION_ARGS)
{
    return with_task(fcinfo, IA3_CALL_TEXT);
}

Datum
ia3_generate_fields(PG_FUNCTION_ARGS)
{
    return with_task(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_generate_zero_shot(PG_FUNCTION_ARGS)
{
    Ia3Question question = {.backbone = Ia3Backbone};
    Sampling sampling;

    if (!get_sampling(fcinfo, 1, &sampling))
        PG_RETURN_NULL();
    question.input.text = text_to_cstring(PG_GETARG_TEXT_PP(0));
    question.input.len = question.input.tail = strlen(question.input.text);
    PG_RETURN_TEXT_P(cstring_to_text(generate(&question, &sampling)));
}
