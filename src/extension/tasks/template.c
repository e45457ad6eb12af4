/*
 * template.c
 *     Prompt templates: plain text with {field}, {choices} and the escapes {{ and }}.
 *
 * A template contains no code: values are inserted unchanged, and braces in them have no meaning. What follows the
 * last field is the tail, which truncation preserves: "\nLabel:" must survive a long text. {choices} is part of the
 * prompt, not of the example, so it may be in the tail.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"

#include "template.h"

static void
syntax_error(const char *source, const char *at, const char *message)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("invalid template: %s at position %d", message,
                           pg_mbstrlen_with_len(source, at - source) + 1),
                    errdetail("The template is \"%s\".", source),
                    errhint("Write {name} for a field, and {{ or }} for a literal brace.")));
}

static void
add_part(Ia3Template *t, Ia3TemplatePartKind kind, const char *text, int len)
{
    Ia3TemplatePart *part;

    if (t->nParts == 0)
        t->parts = palloc(sizeof(Ia3TemplatePart));
    else
        t->parts = repalloc(t->parts, sizeof(Ia3TemplatePart) * (t->nParts + 1));
    part = &t->parts[t->nParts++];
    part->kind = kind;
    part->text = pnstrdup(text, len);
}

static void
add_field(Ia3Template *t, const char *name, int len)
{
    char *field;

    if (len == 7 && memcmp(name, "choices", 7) == 0) {
        add_part(t, IA3_PART_CHOICES, name, len);
        return;
    }
    add_part(t, IA3_PART_FIELD, name, len);
    field = t->parts[t->nParts - 1].text;
    for (int i = 0; i < t->nFields; i++)
        if (strcmp(t->fields[i], field) == 0)
            return;
    t->fields =
        t->nFields == 0 ? palloc(sizeof(char *)) : repalloc(t->fields, sizeof(char *) * (t->nFields + 1));
    t->fields[t->nFields++] = field;
}

/* Parses the field that begins at `open`, a single '{'; returns the position after its '}'. */
static const char *
parse_field(Ia3Template *t, const char *open)
{
    const char *p = open + 1;

    while (*p && *p != '}' && *p != '{' && (unsigned char) *p >= ' ')
        p++;
    if (*p != '}')
        syntax_error(t->source, open, "\"{\" without a matching \"}\"");
    if (p == open + 1)
        syntax_error(t->source, open, "field without a name");
    if (p - open - 1 == 5 && memcmp(open + 1, "label", 5) == 0)
        syntax_error(t->source, open, "field \"label\", which reveals the answer,");
    add_field(t, open + 1, p - open - 1);
    return p + 1;
}

Ia3Template *
Ia3TemplateParse(const char *source)
{
    Ia3Template *t = palloc0(sizeof(Ia3Template));
    StringInfoData literal;
    const char *p = source;

    t->source = pstrdup(source);
    p = t->source;
    initStringInfo(&literal);
    while (*p) {
        if ((*p == '{' || *p == '}') && p[1] == *p) {
            appendStringInfoChar(&literal, *p);
            p += 2;
        } else if (*p == '}') {
            syntax_error(t->source, p, "\"}\" without a matching \"{\"");
        } else if (*p == '{') {
            if (literal.len > 0)
                add_part(t, IA3_PART_LITERAL, literal.data, literal.len);
            resetStringInfo(&literal);
            p = parse_field(t, p);
        } else {
            appendStringInfoChar(&literal, *p++);
        }
    }
    if (literal.len > 0)
        add_part(t, IA3_PART_LITERAL, literal.data, literal.len);
    pfree(literal.data);
    if (t->nFields == 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("template \"%s\" has no field", source),
                 errhint("Write {text} where the text of an example belongs.")));
    return t;
}

Ia3Template **
Ia3TemplatesParse(const Ia3Strings *sources)
{
    Ia3Template **templates = palloc(sizeof(Ia3Template *) * Max(sources->n, 1));

    if (sources->n == 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("template must not be an empty array")));
    for (int i = 0; i < sources->n; i++)
        templates[i] = Ia3TemplateParse(sources->items[i]);
    return templates;
}

void
Ia3TemplateRender(const Ia3Template *template, Ia3FieldValue value, void *arg, const char *choices,
                  Ia3Input *input)
{
    StringInfoData out;

    initStringInfo(&out);
    input->tail = 0;
    for (int i = 0; i < template->nParts; i++) {
        const Ia3TemplatePart *part = &template->parts[i];

        switch (part->kind) {
        case IA3_PART_LITERAL:
            appendStringInfoString(&out, part->text);
            break;
        case IA3_PART_FIELD:
            appendStringInfoString(&out, value(part->text, arg));
            input->tail = out.len;
            break;
        case IA3_PART_CHOICES:
            if (choices == NULL)
                ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                                errmsg("template needs {choices}, but there are no choices")));
            appendStringInfoString(&out, choices);
            break;
        }
    }
    input->text = out.data;
    input->len = out.len;
}
