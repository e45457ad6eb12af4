/*
 * fuzz_template.c
 *     Fuzzes the parser of templates, and fills in those that it accepts.
 */
#include "pg_standin.h"

#include "extension/tasks/template.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int Ia3MaxChoices = 100;

/* The value of a field is its name in angle brackets. */
static const char *
value(const char *field, void *arg)
{
    return psprintf("<%s>", field);
}

static void
check_input(const Ia3Template *t, const Ia3Input *input)
{
    int from = 0;

    if (input->len != (int) strlen(input->text) || input->tail < 0 || input->tail > input->len ||
        (t->truncate == IA3_TRUNCATE_END) != (input->fields == NULL))
        abort();
    for (int i = 0; i < input->nFields; i++) {
        const Ia3InputField *field = &input->fields[i];

        if (field->begin < from || field->end < field->begin + 2 || field->end > input->len ||
            input->text[field->begin] != '<' || input->text[field->end - 1] != '>')
            abort();
        from = field->end;
    }
}

static void
try_template(void *arg)
{
    const Ia3PromptLists lists = {"one, two", "one: a; two: b"}, none = {NULL, NULL};

    for (int truncate = IA3_TRUNCATE_END; truncate <= IA3_TRUNCATE_LONGEST; truncate++) {
        Ia3Template *t = Ia3TemplateParse(arg, (Ia3Truncate) truncate);
        Ia3Input input;

        if (t->nFields < 1 || t->nParts < t->nFields || strcmp(t->source, arg) != 0)
            abort();
        for (int i = 0; i < t->nFields; i++)
            for (int k = 0; k < i; k++)
                if (strcmp(t->fields[i], t->fields[k]) == 0)
                    abort();
        Ia3TemplateRender(t, value, NULL, &lists, &input);
        check_input(t, &input);
        Ia3TemplateRender(t, value, NULL, &none, &input);
        check_input(t, &input);
    }
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *source = pg_text(data, size);

    if (source != NULL && !pg_run(try_template, source) && pg_sqlstate != ERRCODE_INVALID_PARAMETER_VALUE)
        abort();
    pg_reset();
    return 0;
}
