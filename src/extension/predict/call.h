/*
 * call.h
 *     A call of ia3_classify, ia3_predict or (greedy) ia3_generate, under any of their names, and the row to be
 *     predicted for it.
 */
#ifndef IA3_CALL_H
#define IA3_CALL_H

#include "extension/tasks/task.h"
#include "extension/tasks/template.h"

typedef enum Ia3CallForm {
    IA3_CALL_NONE = 0,
    IA3_CALL_TEXT,        /* (task text, input text [, choices text[]]) */
    IA3_CALL_FIELDS,      /* (task text, fields jsonb [, choices text[]]) */
    IA3_CALL_FIELDS_TEXT, /* (task text, fields text or json [, choices text[]]) */
    IA3_CALL_ZERO_SHOT,   /* (input text, choices text[] [, descriptions jsonb, verbalizers jsonb]) */
    /* forms of ia3_predict_version, whose second argument is an integer */
    IA3_CALL_VERSION_TEXT,   /* (task text, version integer, input text [, choices text[]]) */
    IA3_CALL_VERSION_FIELDS, /* (task text, version integer, fields jsonb [, choices text[]]) */
    /*
     * forms of ia3_generate, whose last argument is an integer; all other arguments of all forms are varlena values
     */
    IA3_CALL_GENERATE,             /* (task text, input text, max_tokens integer) */
    IA3_CALL_GENERATE_FIELDS,      /* (task text, fields jsonb, max_tokens integer) */
    IA3_CALL_GENERATE_FIELDS_TEXT, /* (task text, fields text or json, max_tokens integer) */
    IA3_CALL_GENERATE_ZERO_SHOT    /* (input text, max_tokens integer) */
} Ia3CallForm;

#define IA3_MAX_CALL_ARGS 4
#define IA3_MAX_TASK_ARGS 3 /* of forms with a task */

/*
 * The arguments as they were passed. None is NULL: the functions are STRICT, or leave out NULL choices, or replace NULL
 * descriptions and verbalizers by Ia3NoWording.
 */
typedef struct Ia3Call {
    Ia3CallForm form;
    int nArgs;
    Datum args[IA3_MAX_CALL_ARGS];
} Ia3Call;

static inline bool
Ia3CallGenerates(const Ia3Call *call)
{
    return call->form >= IA3_CALL_GENERATE;
}

static inline bool
Ia3CallNamesTask(const Ia3Call *call)
{
    return call->form != IA3_CALL_ZERO_SHOT && call->form != IA3_CALL_GENERATE_ZERO_SHOT;
}

static inline bool
Ia3CallNamesVersion(const Ia3Call *call)
{
    return call->form == IA3_CALL_VERSION_TEXT || call->form == IA3_CALL_VERSION_FIELDS;
}

/* The position of the input or the fields; choices come after it. */
static inline int
Ia3CallInputArg(const Ia3Call *call)
{
    return Ia3CallNamesVersion(call) ? 2 : Ia3CallNamesTask(call) ? 1 : 0;
}

static inline bool
Ia3CallArgIsInteger(const Ia3Call *call, int arg)
{
    return Ia3CallGenerates(call) ? arg == call->nArgs - 1 : Ia3CallNamesVersion(call) && arg == 1;
}

/* A task's own choices as they are scored and listed, made when the first call needs them. */
typedef struct Ia3CallOwn {
    MemoryContext context;
    bool made;
    Ia3ChoiceSet set;
    Ia3PromptLists lists;
} Ia3CallOwn;

/* A task with its first template parsed: what all calls that name it have in common. */
typedef struct Ia3CallTask {
    const Ia3Task *task;
    const Ia3Template *template;
    Ia3CallOwn *own; /* the task's own choices */
} Ia3CallTask;

/* What has to be predicted for a call. */
typedef struct Ia3Question {
    const Ia3Task *task; /* NULL: the bare backbone */
    const char *backbone;
    const Ia3Strings *choices; /* NULL: generate text */
    Ia3ChoiceSet set;          /* what is scored for them */
    int maxTokens;             /* of generated text */
    Ia3Input input;
} Ia3Question;

/* Descriptions or verbalizers that say nothing: an empty jsonb, which is never freed. */
extern Datum Ia3NoWording(void);

/* ERROR 0A000: the task that the call names is a multi-label one, and the function returns one choice. */
extern void Ia3CallRefuseMultiLabel(const Ia3Call *call) pg_attribute_noreturn();

/* The name of the task that a call refers to, palloc'd; NULL if its form has no task. */
extern char *Ia3CallTaskName(const Ia3Call *call);
/* The version that a call names beside the task; 0 in a form without one. */
extern int Ia3CallVersion(const Ia3Call *call);

/*
 * Looks up the task of a call and parses its first template, in the current memory context; NULL if the form of the
 * call has no task. ERROR as for Ia3TaskLookup, with a hint if the arguments look like those of a call without a task,
 * and as for Ia3CallTaskMake.
 */
extern Ia3CallTask *Ia3CallTaskLookup(const Ia3Call *call);

/*
 * Fills in the question, in the current memory context. `task` is the one that Ia3CallTaskName names. ERROR 22xxx for
 * unusable arguments (choices, fields, template, max_tokens). Such an error leaves nothing behind but memory.
 */
extern void Ia3QuestionMake(const Ia3Call *call, const Ia3CallTask *task, Ia3Question *question);

/*
 * The input of a call with a task: its first template filled in with the second argument. ERROR 22xxx as above, also for a
 * JSON object given as the text of a task whose template has no {text}.
 */
extern void Ia3CallInput(const Ia3Call *call, const Ia3CallTask *task, const Ia3PromptLists *lists,
                         Ia3Input *input);

/*
 * Parses the first template of the task, which must outlive the result. ERROR as for Ia3TemplatesParse; for a fixed version 55000 if
 * its recipe has no template, 54000 if it takes longer inputs than ia3.max_input_tokens_limit allows.
 */
extern Ia3CallTask *Ia3CallTaskMake(const Ia3Task *task);

#endif
