/*
 * call.c
 *     Turning a call of ia3_classify, ia3_predict or ia3_generate into the row to be predicted.
 *
 * Of a task with several templates the first is used. Clients may send arguments without their types, and PostgreSQL then
 * takes the overload with text. What that overload can recognize as fields or as choices is an error that names the
 * function to call.
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"

#include "call.h"
#include "extension/guc.h"
#include "extension/tasks/json_text.h"
#include "extension/tasks/value_text.h"

/* What an error message says of the fields of a call, which may be very many. */
#define MAX_KEYS_SHOWN 20

/* The choices of a call: the argument after its input if it has one, otherwise the task's. */
static const Ia3Strings *
call_choices(const Ia3Call *call, const Ia3Task *task)
{
    const Ia3Strings *choices = task->choices;
    int arg = Ia3CallInputArg(call) + 1;

    if (call->nArgs > arg)
        choices = Ia3StringsFromArray(call->args[arg], "choices");
    if (choices == NULL)
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("ia3 task \"%s\" has no choices of its own", task->name),
                        errhint("Pass the choices of this call as the last argument.")));
    return choices;
}

static const Ia3CallOwn *
own_choices(const Ia3CallTask *task)
{
    Ia3CallOwn *own = task->own;

    if (!own->made) {
        MemoryContext old = MemoryContextSwitchTo(own->context);

        Ia3CheckChoices(task->task->choices);
        own->set = Ia3TaskScored(task->task, task->task->choices);
        own->lists = Ia3WordingLists(task->task->wording, task->task->choices);
        own->made = true;
        MemoryContextSwitchTo(old);
    }
    return own;
}

/* What is scored for the choices of a question, and what the prompt may list; a question without choices may list the task's. */
static Ia3PromptLists
word_choices(const Ia3CallTask *task, Ia3Question *question)
{
    const Ia3Wording *wording = task->task->wording;

    if (question->choices == NULL)
        return Ia3WordingLists(wording, task->task->choices);
    if (question->choices == task->task->choices) {
        question->set = own_choices(task)->set;
        return task->own->lists;
    }
    Ia3CheckChoices(question->choices);
    question->set = Ia3TaskScored(task->task, question->choices);
    return Ia3WordingLists(wording, question->choices);
}

typedef struct TextField {
    const Ia3Call *call;
    const Ia3Task *task;
    const Ia3Template *template;
    const char *text;
} TextField;

/* The hint for a call with a text that has to be one with fields. */
static int
hint_at_fields(const Ia3Call *call)
{
    if (Ia3CallNamesVersion(call))
        return errhint("Pass the fields as jsonb.");
    return errhint("Pass the fields as a JSON object to %s, or as jsonb.",
                   Ia3CallGenerates(call) ? "ia3_generate_fields"
                                          : "ia3_predict_fields or ia3_classify_fields");
}

/* A text that is a JSON object is a mistake, unless the task reads texts, which may be anything. */
static void
reject_object(const TextField *input)
{
    for (int i = 0; i < input->template->nFields; i++)
        if (strcmp(input->template->fields[i], "text") == 0)
            return;
    if (Ia3IsJsonObject(input->text))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("the text for ia3 task \"%s\" is a JSON object", input->task->name),
                        errdetail("The template of the task has fields, but no field \"text\"."),
                        hint_at_fields(input->call)));
}

/* A single text fills {text}, or the only field of the template. */
static const char *
text_value(const char *field, void *arg)
{
    TextField *input = arg;

    if (input->template->nFields > 1 && strcmp(field, "text") != 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                 errmsg("field \"%s\" of the template is missing", field),
                 errdetail("The template of ia3 task \"%s\" has more than one field.", input->task->name),
                 hint_at_fields(input->call)));
    return input->text;
}

/* The first keys of the object, for an error message. */
static char *
list_keys(Jsonb *fields)
{
    JsonbIterator *it = JsonbIteratorInit(&fields->root);
    JsonbValue v;
    JsonbIteratorToken token;
    StringInfoData out;
    int shown = 0;

    initStringInfo(&out);
    while (shown < MAX_KEYS_SHOWN && (token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
        if (token == WJB_KEY) {
            int len = pg_mbcliplen(v.val.string.val, v.val.string.len, NAMEDATALEN - 1);

            appendStringInfo(&out, "%s\"%.*s%s\"", shown > 0 ? ", " : "", len, v.val.string.val,
                             len < v.val.string.len ? "..." : "");
            shown++;
        }
    if (shown < JB_ROOT_COUNT(fields))
        appendStringInfo(&out, " and %d more", (int) JB_ROOT_COUNT(fields) - shown);
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
    return Ia3JsonText(value);
}

void
Ia3CallInput(const Ia3Call *call, const Ia3CallTask *task, const Ia3PromptLists *lists, Ia3Input *input)
{
    Datum given = call->args[Ia3CallInputArg(call)];

    if (call->form == IA3_CALL_TEXT || call->form == IA3_CALL_VERSION_TEXT ||
        call->form == IA3_CALL_GENERATE) {
        TextField field = {call, task->task, task->template, text_to_cstring(DatumGetTextPP(given))};

        reject_object(&field);
        Ia3TemplateRender(task->template, text_value, &field, lists, input);
    } else {
        bool isText = call->form == IA3_CALL_FIELDS_TEXT || call->form == IA3_CALL_GENERATE_FIELDS_TEXT;
        Jsonb *fields = isText ? Ia3JsonbFromText(given) : DatumGetJsonbP(given);

        if (!JB_ROOT_IS_OBJECT(fields))
            ereport(ERROR,
                    (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("fields must be a JSON object")));
        Ia3TemplateRender(task->template, jsonb_value, fields, lists, input);
    }
}

Datum
Ia3NoWording(void)
{
    static Jsonb *empty = NULL;

    if (empty == NULL) {
        MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
        Ia3JsonObject object;

        Ia3JsonBegin(&object);
        empty = DatumGetJsonbP(Ia3JsonEnd(&object));
        MemoryContextSwitchTo(old);
    }
    return JsonbPGetDatum(empty);
}

/* The wording of a call without a task. */
static const Ia3Wording *
call_wording(const Ia3Call *call)
{
    Jsonb *descriptions = call->nArgs > 2 ? DatumGetJsonbP(call->args[2]) : NULL;
    Jsonb *verbalizers = call->nArgs > 3 ? DatumGetJsonbP(call->args[3]) : NULL;

    return Ia3WordingMake(verbalizers, descriptions);
}

static void
make_zero_shot(const Ia3Call *call, Ia3Question *question)
{
    char *input = text_to_cstring(DatumGetTextPP(call->args[0]));
    Ia3PromptLists lists = {NULL, NULL};

    question->backbone = Ia3Backbone;
    if (!Ia3CallGenerates(call)) {
        const Ia3Wording *wording = call_wording(call);

        question->choices = Ia3StringsFromArray(call->args[1], "choices");
        Ia3CheckChoices(question->choices);
        Ia3WordingCheckLabels(wording, &question->choices, 1);
        question->set = Ia3WordingScored(wording, question->choices);
        if (wording)
            lists = Ia3WordingLists(wording, question->choices);
    }
    /* of a text that is too long the end is cut off, but never the descriptions */
    question->input.tail = (int) strlen(input);
    question->input.text = lists.descriptions ? psprintf("%s\n%s", input, lists.descriptions) : input;
    question->input.len = (int) strlen(question->input.text);
}

void
Ia3CallRefuseMultiLabel(const Ia3Call *call)
{
    ereport(ERROR,
            (errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
             errmsg("ia3 task \"%s\" is a multi-label task", Ia3CallTaskName(call)),
             errdetail("Any number of its choices are right."),
             errhint("Use ia3_predict_labels for the right ones, or ia3_classify for their probabilities.")));
}

char *
Ia3CallTaskName(const Ia3Call *call)
{
    return Ia3CallNamesTask(call) ? text_to_cstring(DatumGetTextPP(call->args[0])) : NULL;
}

int
Ia3CallVersion(const Ia3Call *call)
{
    return Ia3CallNamesVersion(call) ? DatumGetInt32(call->args[1]) : 0;
}

static void
check_fixed(const Ia3Task *task)
{
    int tokens = Ia3TaskInputTokens(task);

    if (task->templates == NULL)
        ereport(
            ERROR,
            (errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
             errmsg("version %d of ia3 task \"%s\" has no template of its own", task->version, task->name),
             errdetail("It was imported before the task had one."),
             errhint("Import it again: the new version will have the template that the task has now.")));
    if (tokens > Ia3MaxInputTokensLimit)
        ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                        errmsg("version %d of ia3 task \"%s\" reads inputs of up to %d tokens", task->version,
                               task->name, tokens),
                        errdetail("The setting ia3.max_input_tokens_limit is %d.", Ia3MaxInputTokensLimit),
                        errhint("A superuser can raise ia3.max_input_tokens_limit.")));
}

Ia3CallTask *
Ia3CallTaskMake(const Ia3Task *task)
{
    Ia3CallTask *result = palloc0(sizeof(Ia3CallTask));

    if (task->fixed)
        check_fixed(task);
    result->task = task;
    result->template = Ia3TemplatesParse(task->templates, task->truncate)[0];
    result->own = palloc0(sizeof(Ia3CallOwn));
    result->own->context = CurrentMemoryContext;
    return result;
}

/* Whether this is how drivers write an array, and no JSON object. */
static bool
looks_like_array(const char *text)
{
    size_t len = strlen(text);

    return len >= 2 && text[0] == '{' && text[len - 1] == '}' && !Ia3IsJsonObject(text);
}

static bool
looks_like_integer(const char *text)
{
    return *text != '\0' && strspn(text, "0123456789") == strlen(text);
}

/* The hint for a call that names a task but has the arguments of one without, if its task cannot be found. */
static const char *
zero_shot_hint(const Ia3Call *call)
{
    const char *second;

    if (call->form != IA3_CALL_GENERATE && (call->form != IA3_CALL_TEXT || call->nArgs > 2))
        return NULL;
    second = text_to_cstring(DatumGetTextPP(call->args[1]));
    if (call->form == IA3_CALL_GENERATE && looks_like_integer(second))
        return "To generate text without a task, call ia3_generate_zero_shot(input, max_tokens).";
    if (call->form == IA3_CALL_TEXT && looks_like_array(second))
        return "To choose without a task, call ia3_zero_shot or ia3_classify_zero_shot(input, choices).";
    return NULL;
}

static void
add_hint(void *arg)
{
    int code = geterrcode();

    if (code == ERRCODE_UNDEFINED_OBJECT || code == ERRCODE_INVALID_NAME ||
        code == ERRCODE_INVALID_PARAMETER_VALUE)
        errhint("%s", (const char *) arg);
}

Ia3CallTask *
Ia3CallTaskLookup(const Ia3Call *call)
{
    char *name = Ia3CallTaskName(call);
    const char *hint = name ? zero_shot_hint(call) : NULL;
    ErrorContextCallback callback = {error_context_stack, add_hint, (void *) hint};
    Ia3Task *task;

    if (name == NULL)
        return NULL;
    if (Ia3CallNamesVersion(call))
        return Ia3CallTaskMake(Ia3TaskLookupVersion(name, Ia3CallVersion(call), false));
    if (hint != NULL)
        error_context_stack = &callback;
    task = Ia3TaskLookup(name);
    error_context_stack = callback.previous;
    return Ia3CallTaskMake(task);
}

void
Ia3QuestionMake(const Ia3Call *call, const Ia3CallTask *task, Ia3Question *question)
{
    Ia3PromptLists lists;

    memset(question, 0, sizeof *question);
    if (Ia3CallGenerates(call)) {
        question->maxTokens = DatumGetInt32(call->args[call->nArgs - 1]);
        if (question->maxTokens < 1 || question->maxTokens > IA3_MAX_NEW_TOKENS)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("max_tokens must be between 1 and %d", IA3_MAX_NEW_TOKENS)));
    }
    if (!Ia3CallNamesTask(call)) {
        make_zero_shot(call, question);
        return;
    }
    question->task = task->task;
    question->backbone = task->task->backbone;
    if (!Ia3CallGenerates(call))
        question->choices = call_choices(call, task->task);
    lists = word_choices(task, question);
    Ia3CallInput(call, task, &lists, &question->input);
}
