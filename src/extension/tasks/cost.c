/*
 * cost.c
 *     ia3_cost and ia3_backbone_config: what predicting, training and in-context learning cost.
 *
 * The formulas are in common/cost.h. An (IA)³ adapter with the usual targets needs only these; for everything else an engine,
 * which knows the tensors, is asked.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "cost_config.h"
#include "extension/client/client.h"
#include "extension/client/text.h"
#include "extension/guc.h"
#include "method.h"
#include "task.h"

PG_FUNCTION_INFO_V1(ia3_backbone_config);
PG_FUNCTION_INFO_V1(ia3_cost);
PG_FUNCTION_INFO_V1(ia3_cost_task);

/* The arguments, in the order of the SQL functions. */
typedef enum CostArg {
    ARG_SUBJECT, /* a configuration or a task */
    ARG_TOKENS,
    ARG_CHOICES,
    ARG_CHOICE_TOKENS,
    ARG_SHOTS,
    ARG_SHOT_TOKENS,
    ARG_STEPS,
    ARG_BATCH_SIZE,
    ARG_METHOD,
    ARG_DTYPE,
    ARG_METHOD_OPTIONS /* the first of them */
} CostArg;

static const char *const argNames[] = {
    [ARG_TOKENS] = "tokens",         [ARG_CHOICES] = "choices",         [ARG_CHOICE_TOKENS] = "choice_tokens",
    [ARG_SHOTS] = "shots",           [ARG_SHOT_TOKENS] = "shot_tokens", [ARG_STEPS] = "steps",
    [ARG_BATCH_SIZE] = "batch_size", [ARG_METHOD] = "method",           [ARG_DTYPE] = "dtype"};

#define N_COLUMNS 11

/* What a backbone, a method and the arguments say. */
typedef struct CostInput {
    ia3_sizes sizes;
    bool drops;    /* choices do not share their start token in training */
    bool int8;     /* training is impossible */
    double values; /* of an adapter */
    double numbers[ARG_BATCH_SIZE + 1];
    ia3_method_cost method;
    double members; /* of an ensemble; else 1 */
    ia3_element_sizes elements;
} CostInput;

static void
null_argument(const char *name)
{
    ereport(ERROR, (errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED), errmsg("%s must not be null", name)));
}

/* Reads an argument that must be positive; NULL gives the fallback, if there is one. */
static double
number_arg(FunctionCallInfo fcinfo, CostArg arg, double fallback)
{
    int32 value;

    if (PG_ARGISNULL(arg)) {
        if (fallback <= 0)
            null_argument(argNames[arg]);
        return fallback;
    }
    value = PG_GETARG_INT32(arg);
    if (value < 1)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must be positive", argNames[arg])));
    return value;
}

static const char *
text_arg(FunctionCallInfo fcinfo, CostArg arg, const char *fallback)
{
    if (!PG_ARGISNULL(arg))
        return text_to_cstring(PG_GETARG_TEXT_PP(arg));
    if (fallback == NULL)
        null_argument(argNames[arg]);
    return fallback;
}

/* The fallbacks are for choices and choice_tokens; 0: NULL is an error. */
static void
read_numbers(FunctionCallInfo fcinfo, CostInput *input, double choices, double choiceTokens)
{
    double *n = input->numbers;

    for (int arg = ARG_TOKENS; arg <= ARG_BATCH_SIZE; arg++)
        n[arg] = number_arg(fcinfo, arg,
                            arg == ARG_CHOICES         ? choices
                            : arg == ARG_CHOICE_TOKENS ? choiceTokens
                                                       : 0);
    if (n[ARG_TOKENS] <= n[ARG_CHOICES] * n[ARG_CHOICE_TOKENS])
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("tokens must be more than those of the choices"),
                        errdetail("There are %.0f tokens in all, and %.0f choices of %g tokens.",
                                  n[ARG_TOKENS], n[ARG_CHOICES], n[ARG_CHOICE_TOKENS]),
                        errhint("The argument tokens counts the input and all choices.")));
}

/* As in the engine: tables and activations are never in eight bits (engine/device/device.h). */
static void
set_dtype(CostInput *input, const char *dtype)
{
    static const struct {
        const char *name;
        ia3_element_sizes elements;
    } dtypes[] = {{"float32", {4, 4, 4}}, {"bfloat16", {2, 2, 2}}, {"int8", {1, 2, 2}}};

    for (int i = 0; i < lengthof(dtypes); i++) {
        if (strcmp(dtypes[i].name, dtype) == 0) {
            input->elements = dtypes[i].elements;
            input->int8 = strcmp(dtype, "int8") == 0;
            return;
        }
    }
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("unknown dtype \"%s\"", dtype),
                    errhint("Valid values are \"float32\", \"bfloat16\" and \"int8\".")));
}

/* --- what an engine knows --- */

static ia3_row_cost
get_row_cost(ia3_reader *reader)
{
    ia3_row_cost cost;

    cost.forward = ia3_get_f64(reader);
    cost.backward = ia3_get_f64(reader);
    return cost;
}

/*
 * Asks an engine of the backbone what the method needs on a backbone with this configuration, with some options and, for the rest,
 * with those that a version has recorded, or with the defaults if this is NULL.
 */
static void
ask_for_method(const char *backbone, Jsonb *config, const char *method, const char *recorded,
               const char *options, CostInput *input)
{
    char *text = JsonbToCString(NULL, &config->root, VARSIZE(config));
    ia3_writer *w = Ia3RequestBegin(backbone);
    ia3_reader reader;

    Ia3PutText(w, text, (int) strlen(text));
    Ia3MethodPut(w, method, recorded, options);
    Ia3RequestSend(IA3_METHOD);
    if (Ia3ReplyWait(&reader) != IA3_METHOD_OK)
        Ia3ProtocolError("The engine did not answer METHOD with a method.");
    input->values = (double) ia3_get_u64(&reader);
    input->method.encoder = get_row_cost(&reader);
    input->method.decoder = get_row_cost(&reader);
    input->method.keys = get_row_cost(&reader);
    input->method.lead_rows = ia3_get_f64(&reader);
    input->method.decoder_lead_rows = ia3_get_f64(&reader);
    input->method.below_vectors = ia3_get_f64(&reader) != 0;
    input->method.trained = ia3_get_f64(&reader);
    input->method.expanded = ia3_get_f64(&reader);
    input->method.weights = ia3_get_f64(&reader);
    input->method.positions = ia3_get_f64(&reader);
    input->method.draws = ia3_get_f64(&reader);
    input->method.step = ia3_get_f64(&reader);
    input->members = ia3_get_u32(&reader);
    if (reader.bad || reader.p != reader.end)
        Ia3ProtocolError("The description of a method does not have the length it should have.");
}

static void
set_method(CostInput *input, const char *backbone, Jsonb *config, const char *method, const char *recorded,
           const char *options)
{
    bool usual = (recorded == NULL || recorded[0] == '\0') && options[0] == '\0';

    input->members = 1;
    if (strcmp(method, IA3_DEFAULT_METHOD) == 0 && usual)
        input->values = ia3_vector_values(&input->sizes);
    else if (input->sizes.decoder_only)
        ereport(ERROR, (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
                        errmsg("method \"%s\" cannot be used with a model of type \"gpt2\"", method),
                        errdetail("Such a model is accepted for comparison only, and is not trained.")));
    else
        ask_for_method(backbone, config, method, recorded, options, input);
}

static Jsonb *
backbone_config(const char *backbone)
{
    ia3_reader reader;
    char *text;

    Ia3RequestBegin(backbone);
    Ia3RequestSend(IA3_CONFIG);
    if (Ia3ReplyWait(&reader) != IA3_CONFIG_OK)
        Ia3ProtocolError("The engine did not answer CONFIG with a configuration.");
    text = Ia3GetText(&reader);
    if (reader.bad || reader.p != reader.end)
        Ia3ProtocolError("The configuration does not have the length it should have.");
    return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(text)));
}

Datum
ia3_backbone_config(PG_FUNCTION_ARGS)
{
    PG_RETURN_POINTER(backbone_config(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

/* --- the result --- */

static Datum
bytes_datum(double bytes)
{
    if (bytes >= 0x1p63)
        ereport(ERROR, (errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE), errmsg("bigint out of range"),
                        errdetail("The memory would be %g bytes.", bytes)));
    return Int64GetDatum((int64) bytes);
}

/* The rows of an input that follows `before` other tokens, with its choices; `chains`: each has a start token. */
static ia3_pass_rows
rows_of(const CostInput *c, double before, bool chains)
{
    const double *n = c->numbers;
    double input = n[ARG_TOKENS] - n[ARG_CHOICES] * n[ARG_CHOICE_TOKENS] + before;
    double lead = c->method.decoder_lead_rows;

    if (c->sizes.decoder_only)
        return ia3_rows_of_continuations(input, n[ARG_CHOICES], n[ARG_CHOICE_TOKENS]);
    input += c->method.lead_rows;
    return chains ? ia3_rows_of_chains(input, lead, n[ARG_CHOICES], n[ARG_CHOICE_TOKENS])
                  : ia3_rows_of_trie(input, lead, n[ARG_CHOICES], n[ARG_CHOICE_TOKENS]);
}

static double
forward(const CostInput *c, const ia3_pass_rows *rows, bool adapted)
{
    static const ia3_method_cost nothing = {.lead_rows = 0};

    return ia3_forward_flops(&c->sizes, rows, adapted ? &c->method : &nothing);
}

/* In-context learning uses the bare backbone. */
static double
icl_flops(const CostInput *c)
{
    CostInput bare = *c;
    ia3_pass_rows rows;

    memset(&bare.method, 0, sizeof bare.method);
    rows = rows_of(&bare, c->numbers[ARG_SHOTS] * c->numbers[ARG_SHOT_TOKENS], false);
    return forward(&bare, &rows, false);
}

/* The columns that have a meaning only for what can be trained; they are NULL otherwise. */
static void
put_training(const CostInput *c, Datum *values, bool *nulls)
{
    const double *n = c->numbers;
    ia3_pass_rows rows = rows_of(c, 0, c->drops);
    double example = forward(c, &rows, true) + ia3_backward_flops(&c->sizes, &rows, &c->method);
    double step = n[ARG_BATCH_SIZE] * example + 2 * c->method.step;
    double own = c->values / c->members, trained = c->method.trained, expanded = c->method.expanded;
    double weights = c->method.weights, state;

    values[0] = Int64GetDatum((int64) (c->values - c->members * c->method.positions));
    values[5] = Float8GetDatum(c->members * (n[ARG_STEPS] * step + c->method.draws * example));
    values[7] = Int64GetDatum((int64) (4 * c->values));
    nulls[0] = nulls[5] = nulls[7] = false;
    if (c->int8)
        return;
    rows.encoder_rows *= n[ARG_BATCH_SIZE];
    rows.decoder_rows *= n[ARG_BATCH_SIZE];
    /*
     * What is trained, its gradients and its second moments, and the values and gradients of an adapter that is computed from it, or of
     * what is computed from an adapter, or a copy of the weights, of about the size of the backbone's; members of an ensemble are trained
     * one after another.
     */
    if (weights > 0)
        state = 4 * 3 * weights + ia3_weight_bytes(&c->sizes, &c->elements);
    else
        state = 4 * (trained > 0 ? 3 * trained + 2 * own : 3 * own + 2 * expanded);
    values[9] = bytes_datum(ia3_weight_bytes(&c->sizes, &c->elements) + state +
                            ia3_step_bytes(&c->sizes, &rows, &c->elements));
    nulls[9] = false;
}

static Datum
result(FunctionCallInfo fcinfo, const CostInput *c)
{
    const double *n = c->numbers;
    ia3_pass_rows rows = rows_of(c, 0, false);
    bool trainable = !c->sizes.decoder_only;
    double adapter = 4 * (c->method.expanded > 0 ? c->members * c->method.expanded : c->values);
    Datum values[N_COLUMNS];
    bool nulls[N_COLUMNS] = {false};
    TupleDesc desc;

    if (c->method.weights > 0) /* weights of its own, and the values from which training may go on */
        adapter += c->members * ia3_weight_bytes(&c->sizes, &c->elements);
    if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != N_COLUMNS)
        elog(ERROR, "return type must be a row type with %d columns", N_COLUMNS);
    nulls[0] = nulls[5] = nulls[7] = nulls[9] = true;
    values[1] = Float8GetDatum(ia3_paper_inference_flops(&c->sizes, n[ARG_TOKENS]));
    values[2] =
        Float8GetDatum(ia3_paper_training_flops(&c->sizes, n[ARG_TOKENS], n[ARG_STEPS], n[ARG_BATCH_SIZE]));
    values[3] =
        Float8GetDatum(ia3_paper_icl_flops(&c->sizes, n[ARG_TOKENS], n[ARG_SHOTS], n[ARG_SHOT_TOKENS]));
    values[4] = Float8GetDatum(c->members * forward(c, &rows, true));
    values[6] = Float8GetDatum(icl_flops(c));
    values[8] = bytes_datum(ia3_weight_bytes(&c->sizes, &c->elements) + (trainable ? adapter : 0) +
                            ia3_forward_bytes(&c->sizes, &rows, &c->elements));
    values[10] = Int64GetDatum((int64) ia3_parameters_without_embeddings(&c->sizes));
    if (trainable)
        put_training(c, values, nulls);
    return HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls));
}

Datum
ia3_cost(PG_FUNCTION_ARGS)
{
    CostInput input = {.drops = false};
    Jsonb *config;

    if (PG_ARGISNULL(ARG_SUBJECT))
        null_argument("config");
    config = PG_GETARG_JSONB_P(ARG_SUBJECT);
    read_numbers(fcinfo, &input, 0, 0);
    set_dtype(&input, text_arg(fcinfo, ARG_DTYPE, NULL));
    input.sizes = Ia3CostConfigRead(config, &input.drops);
    set_method(&input, Ia3Backbone, config, text_arg(fcinfo, ARG_METHOD, NULL), NULL,
               Ia3MethodOptionsFromArguments(fcinfo, ARG_METHOD_OPTIONS));
    PG_RETURN_DATUM(result(fcinfo, &input));
}

/* --- tasks --- */

#define MAX_MEASURED 1000 /* choices whose tokens are counted */

static double
count_tokens(const char *backbone, const char *choice)
{
    ia3_writer *w = Ia3RequestBegin(backbone);
    ia3_reader reader;

    Ia3PutText(w, choice, (int) strlen(choice));
    Ia3RequestSend(IA3_TOKENIZE);
    if (Ia3ReplyWait(&reader) != IA3_TOKENIZE_OK)
        Ia3ProtocolError("The engine did not answer TOKENIZE with tokens.");
    return ia3_get_count(&reader, 8);
}

/* The mean number of tokens of what is scored for a task's choices, of the first ones if there are very many. */
static double
mean_tokens(const Ia3Task *task, const Ia3Strings *scored)
{
    int n = Min(scored->n, MAX_MEASURED);
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += count_tokens(task->backbone, scored->items[i]);
    return sum / n;
}

/* JSON has been given without a type, so that it was taken for a text. */
static void
check_no_json(const char *reference)
{
    const char *p = reference + strspn(reference, " \t\r\n");

    if (*p == '{')
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the task of ia3_cost looks like a configuration"),
                        errhint("Pass a configuration as jsonb, or by its name: ia3_cost(config => ...).")));
}

/* What is scored for each label of a multi-label task (protocol.h, CHOICES). */
static const Ia3Strings *
both_answers(const Ia3Strings *labels)
{
    Ia3Strings *answers = palloc(sizeof(Ia3Strings));

    answers->n = 2 * labels->n;
    answers->items = palloc(sizeof(char *) * Max(answers->n, 1));
    for (int i = 0; i < labels->n; i++) {
        answers->items[2 * i] = psprintf("%s %s", labels->items[i], IA3_ANSWER_YES);
        answers->items[2 * i + 1] = psprintf("%s %s", labels->items[i], IA3_ANSWER_NO);
    }
    return answers;
}

Datum
ia3_cost_task(PG_FUNCTION_ARGS)
{
    CostInput input = {.drops = false};
    char *reference;
    const char *method;
    bool ownChoices;
    const Ia3Strings *scored;
    Ia3Task *task;
    Jsonb *config;

    if (PG_ARGISNULL(ARG_SUBJECT))
        null_argument("task");
    reference = text_to_cstring(PG_GETARG_TEXT_PP(ARG_SUBJECT));
    check_no_json(reference);
    task = Ia3TaskLookup(reference);
    Ia3TaskCheckBackbone(task);
    ownChoices = task->choices != NULL && PG_ARGISNULL(ARG_CHOICE_TOKENS);
    scored = task->choices ? Ia3WordingScored(task->wording, task->choices).scored : NULL;
    if (scored && task->multiLabel)
        scored = both_answers(scored);
    read_numbers(fcinfo, &input, scored ? scored->n : 2, ownChoices ? mean_tokens(task, scored) : 5);
    set_dtype(&input, text_arg(fcinfo, ARG_DTYPE, pstrdup(Ia3GetEngineInfo(task->backbone)->dtype)));
    config = backbone_config(task->backbone);
    input.sizes = Ia3CostConfigRead(config, &input.drops);
    method = text_arg(fcinfo, ARG_METHOD, task->method);
    set_method(&input, task->backbone, config, method,
               strcmp(method, task->method) == 0 ? task->methodOptions : NULL,
               Ia3MethodOptionsFromArguments(fcinfo, ARG_METHOD_OPTIONS));
    PG_RETURN_DATUM(result(fcinfo, &input));
}
