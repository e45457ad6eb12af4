/*
 * render.c
 *     ia3_render: the input that a template makes of an example.
 */
#include "postgres.h"

#include "utils/builtins.h"

#include "call.h"

PG_FUNCTION_INFO_V1(ia3_render);
PG_FUNCTION_INFO_V1(ia3_render_text);

/* Returns the input as the model gets it, before truncation. ERROR 22023 as for ia3_classify. */
static Datum
render(FunctionCallInfo fcinfo, Ia3CallForm form)
{
    Ia3Call call = {form, 2, {0, PG_GETARG_DATUM(1)}};
    Ia3CallTask task = {NULL, Ia3TemplateParse(text_to_cstring(PG_GETARG_TEXT_PP(0)), IA3_TRUNCATE_LONGEST)};
    Ia3PromptLists lists = {NULL, NULL};
    Ia3Input input;

    if (PG_NARGS() > 2)
        lists = Ia3WordingLists(NULL, Ia3StringsFromArray(PG_GETARG_DATUM(2), "choices"));
    Ia3CallInput(&call, &task, &lists, &input);
    PG_RETURN_TEXT_P(cstring_to_text_with_len(input.text, input.len));
}

Datum
ia3_render(PG_FUNCTION_ARGS)
{
    return render(fcinfo, IA3_CALL_FIELDS);
}

Datum
ia3_render_text(PG_FUNCTION_ARGS)
{
    return render(fcinfo, IA3_CALL_FIELDS_TEXT);
}
