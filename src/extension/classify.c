/*
 * classify.c
 *     ia3_classify and ia3_predict: choices ranked by their likelihood.
 *
 * A task with several templates is asked with the first one. All functions are STRICT.
 */
#include "postgres.h"

#include <math.h>

#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/numeric.h"

#include "score_request.h"

PG_FUNCTION_INFO_V1(ia3_classify_text);
PG_FUNCTION_INFO_V1(ia3_classify_fields);
PG_FUNCTION_INFO_V1(ia3_classify_zero_shot);
PG_FUNCTION_INFO_V1(ia3_predict_text);
PG_FUNCTION_INFO_V1(ia3_predict_fields);
PG_FUNCTION_INFO_V1(ia3_predict_zero_shot);

typedef struct RankedChoice {
    const char *choice;
    int position; /* in the list of choices: decides between equal scores */
    double score;
    double probability;
} RankedChoice;

typedef struct Ranking {
    int n;
    RankedChoice *choices; /* best first */
} Ranking;

static int
compare_ranked(const void *a, const void *b)
{
    const RankedChoice *x = a, *y = b;

    if (x->score != y->score)
        return x->score > y->score ? -1 : 1;
    return x->position - y->position;
}

/* probability = softmax of the scores, shifted by the best one so that exp cannot overflow. */
static Ranking
rank_choices(const Ia3Strings *choices, const Ia3ScoreResult *result)
{
    Ranking ranking = {choices->n, palloc(sizeof(RankedChoice) * choices->n)};
    double sum = 0;

    for (int i = 0; i < choices->n; i++) {
        RankedChoice *c = &ranking.choices[i];

        if (!isfinite(result->scores[i]))
            ereport(ERROR, (errcode(ERRCODE_INTERNAL_ERROR),
                            errmsg("ia3 engine returned a score that is not a number")));
        c->choice = choices->items[i];
        c->position = i;
        c->score = result->scores[i];
    }
    qsort(ranking.choices, ranking.n, sizeof(RankedChoice), compare_ranked);
    for (int i = 0; i < ranking.n; i++) {
        ranking.choices[i].probability = exp(ranking.choices[i].score - ranking.choices[0].score);
        sum += ranking.choices[i].probability;
    }
    for (int i = 0; i < ranking.n; i++)
        ranking.choices[i].probability /= sum;
    return ranking;
}

/* Asks the engine about one input. task == NULL: the bare backbone. */
static Ranking
ask(const char *backbone, const Ia3Task *task, const Ia3Input *input, const Ia3Strings *choices)
{
    Ia3ScoreRequest *request = Ia3ScoreCreate(backbone);
    Ia3ScoreResult *result;

    Ia3ScoreAddRow(request, Ia3ScoreAddAdapter(request, task), Ia3ScoreAddChoices(request, choices), input);
    result = Ia3ScoreRun(request);
    Ia3ScoreCheck(result, task ? psprintf("ia3 task \"%s\"", task->label) : NULL);
    return rank_choices(choices, result);
}

/* The choices of this call: its own argument (the third), else the task's. */
static const Ia3Strings *
task_choices(const Ia3Task *task, FunctionCallInfo fcinfo)
{
    const Ia3Strings *choices = task->choices;

    if (PG_NARGS() > 2)
        choices = Ia3StringsFromArray(PG_GETARG_DATUM(2), "choices");
    if (choices == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("ia3 task \"%s\" has no choices of its own", task->name),
                        errhint("Pass the choices of this call as the last argument.")));
    Ia3CheckChoices(choices);
    return choices;
}

static Ranking
ask_task(FunctionCallInfo fcinfo, Ia3FieldValue value, void *arg, Ia3Task *task, Ia3Template *template)
{
    const Ia3Strings *choices = task_choices(task, fcinfo);
    Ia3Input input;

    Ia3TemplateRender(template, value, arg, Ia3StringsJoin(choices, ", "), &input);
    Ia3TaskCheckBackbone(task);
    return ask(task->backbone, task, &input, choices);
}

typedef struct TextField {
    const Ia3Task *task;
    const Ia3Template *template;
    const char *text;
} TextField;

/* One text fills {text}, or the only field that the template has. */
static const char *
text_value(const char *field, void *arg)
{
    TextField *input = arg;

    if (input->template->nFields > 1 && strcmp(field, "text") != 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("the template of ia3 task \"%s\" has a field \"%s\"", input->task->name, field),
                 errhint("Pass the fields as a jsonb object.")));
    return input->text;
}

static Ranking
ask_text(FunctionCallInfo fcinfo)
{
    Ia3Task *task = Ia3TaskLookup(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    Ia3Template *template = Ia3TemplatesParse(task->templates)[0];
    TextField input = {task, template, text_to_cstring(PG_GETARG_TEXT_PP(1))};

    return ask_task(fcinfo, text_value, &input, task, template);
}

/* The object's keys, for a hint. */
static char *
list_keys(Jsonb *fields)
{
    JsonbIterator *it = JsonbIteratorInit(&fields->root);
    JsonbValue v;
    JsonbIteratorToken token;
    StringInfoData out;

    initStringInfo(&out);
    while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
        if (token == WJB_KEY)
            appendStringInfo(&out, "%s\"%.*s\"", out.len > 0 ? ", " : "", v.val.string.len, v.val.string.val);
    return out.data;
}

static const char *
jsonb_value(const char *field, void *arg)
{
    Jsonb *fields = arg;
    JsonbValue key, *value;

    key.type = jbvString;
    key.val.string.val = (char *) field;
    key.val.string.len = strlen(field);
    value = findJsonbValueFromContainer(&fields->root, JB_FOBJECT, &key);
    if (value == NULL) {
        char *keys = list_keys(fields);

        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("field \"%s\" of the template is missing", field),
                 *keys ? errdetail("The given fields are %s.", keys) : errdetail("No fields are given.")));
    }
    switch (value->type) {
    case jbvNull:
        return "";
    case jbvString:
        return pnstrdup(value->val.string.val, value->val.string.len);
    case jbvNumeric:
        return DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));
    case jbvBool:
        return value->val.boolean ? "true" : "false";
    default:
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("field \"%s\" must be a string, a number or a boolean", field)));
        return NULL;
    }
}

static Ranking
ask_fields(FunctionCallInfo fcinfo)
{
    Ia3Task *task = Ia3TaskLookup(text_to_cstring(PG_GETARG_TEXT_PP(0)));
    Jsonb *fields = PG_GETARG_JSONB_P(1);

    if (!JB_ROOT_IS_OBJECT(fields))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("fields must be a JSON object")));
    return ask_task(fcinfo, jsonb_value, fields, task, Ia3TemplatesParse(task->templates)[0]);
}

static Ranking
ask_zero_shot(FunctionCallInfo fcinfo)
{
    text *arg = PG_GETARG_TEXT_PP(0);
    Ia3Strings *choices = Ia3StringsFromArray(PG_GETARG_DATUM(1), "choices");
    Ia3Input input;

    Ia3CheckChoices(choices);
    input.text = text_to_cstring(arg);
    input.len = strlen(input.text);
    input.tail = input.len;
    return ask(Ia3Backbone, NULL, &input, choices);
}

static Datum
return_ranking(FunctionCallInfo fcinfo, Ranking ranking)
{
    ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;

    Ia3InitMaterializedSRF(fcinfo);
    for (int i = 0; i < ranking.n; i++) {
        Datum values[4];
        bool nulls[4] = {false};

        values[0] = CStringGetTextDatum(ranking.choices[i].choice);
        values[1] = Float8GetDatum(ranking.choices[i].score);
        values[2] = Float8GetDatum(ranking.choices[i].probability);
        values[3] = Int32GetDatum(i + 1);
        tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
    }
    return (Datum) 0;
}

static Datum
best_choice(Ranking ranking)
{
    return CStringGetTextDatum(ranking.choices[0].choice);
}

Datum
ia3_classify_text(PG_FUNCTION_ARGS)
{
    return return_ranking(fcinfo, ask_text(fcinfo));
}

Datum
ia3_classify_fields(PG_FUNCTION_ARGS)
{
    return return_ranking(fcinfo, ask_fields(fcinfo));
}

Datum
ia3_classify_zero_shot(PG_FUNCTION_ARGS)
{
    return return_ranking(fcinfo, ask_zero_shot(fcinfo));
}

Datum
ia3_predict_text(PG_FUNCTION_ARGS)
{
    PG_RETURN_DATUM(best_choice(ask_text(fcinfo)));
}

Datum
ia3_predict_fields(PG_FUNCTION_ARGS)
{
    PG_RETURN_DATUM(best_choice(ask_fields(fcinfo)));
}

Datum
ia3_predict_zero_shot(PG_FUNCTION_ARGS)
{
    PG_RETURN_DATUM(best_choice(ask_zero_shot(fcinfo)));
}
