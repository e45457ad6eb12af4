/*
 * template.c
 *     Prompt templates: plain text with {field}, {choices}, {descriptions} and the escapes {{ and }}.
 *
 * A template contains no code: values are inserted unchanged, and braces in them have no meaning. {choices} and
 * {descriptions} are part of the prompt, not of the example, so they count as the template's text. That is never truncated, or with
 * IA3_TRUNCATE_END not after the last field, in the tail: "\nLabel:" must survive a long text.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"

#include "template.h"

/* A template in an error message: all of it when it is short, else what is around `at`, with "..." for the rest. */
static char *
excerpt(const char *source, const char *at)
{
    const int around = 60; /* bytes on either side */
    int len = strlen(source), from = 0, to = len;
    StringInfoData out;

    if (len > 4 * around) {
        /* whole characters only */
        from = pg_mbcliplen(source, len, Max(0, (int) (at - source) - around));
        to = from + pg_mbcliplen(source + from, len - from, 2 * around);
    }
    initStringInfo(&out);
    appendStringInfo(&out, "%s%.*s%s", from > 0 ? "..." : "", to - from, source + from,
                     to < len ? "..." : "");
    return out.data;
}

static void
syntax_error(const char *source, const char *at, const char *message)
{
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("invalid template: %s at position %d", message,
                           pg_mbstrlen_with_len(source, at - source) + 1),
                    errdetail("The template is \"%s\".", excerpt(source, at)),
                    errhint("Write {name} for a field, and {{ or }} for a literal brace.")));
}

/* A template while it is parsed. */
typedef struct Parsing {
    Ia3Template *t;
    int capacity;           /* of t->parts */
    Ia3StringIndex *fields; /* the distinct ones */
} Parsing;

static void
add_part(Parsing *p, Ia3TemplatePartKind kind, const char *text, int len)
{
    Ia3Template *t = p->t;
    Ia3TemplatePart *part;

    if (t->nParts == p->capacity) {
        p->capacity = Max(16, 2 * p->capacity);
        t->parts = t->parts == NULL ? palloc(sizeof(Ia3TemplatePart) * p->capacity)
                                    : repalloc_huge(t->parts, sizeof(Ia3TemplatePart) * p->capacity);
    }
    part = &t->parts[t->nParts++];
    part->kind = kind;
    part->text = pnstrdup(text, len);
}

static void
add_field(Parsing *p, const char *name, int len)
{
    bool found;

    if (len == 7 && memcmp(name, "choices", 7) == 0) {
        add_part(p, IA3_PART_CHOICES, name, len);
        return;
    }
    if (len == 12 && memcmp(name, "descriptions", 12) == 0) {
        p->t->truncate = IA3_TRUNCATE_LONGEST;
        add_part(p, IA3_PART_DESCRIPTIONS, name, len);
        return;
    }
    add_part(p, IA3_PART_FIELD, name, len);
    Ia3StringIndexAdd(p->fields, p->t->parts[p->t->nParts - 1].text, &found);
}

/* Parses the field that begins at `open`, a single '{'; returns the position after its '}'. */
static const char *
parse_field(Parsing *parsing, const char *open)
{
    const char *source = parsing->t->source, *p = open + 1;

    while (*p && *p != '}' && *p != '{' && (unsigned char) *p >= ' ')
        p++;
    if (*p != '}')
        syntax_error(source, open, "\"{\" without a matching \"}\"");
    if (p == open + 1)
        syntax_error(source, open, "field without a name");
    if (p - open - 1 == 5 && memcmp(open + 1, "label", 5) == 0)
        syntax_error(source, open, "field \"label\", which reveals the answer,");
    add_field(parsing, open + 1, p - open - 1);
    return p + 1;
}

Ia3Template *
Ia3TemplateParse(const char *source, Ia3Truncate truncate)
{
    Ia3Template *t = palloc0(sizeof(Ia3Template));
    Parsing parsing = {t, 0, Ia3StringIndexCreate()};
    StringInfoData literal;
    const char *p;

    t->source = pstrdup(source);
    t->truncate = truncate;
    p = t->source;
    initStringInfo(&literal);
    while (*p) {
        CHECK_FOR_INTERRUPTS();
        if ((*p == '{' || *p == '}') && p[1] == *p) {
            appendStringInfoChar(&literal, *p);
            p += 2;
        } else if (*p == '}') {
            syntax_error(t->source, p, "\"}\" without a matching \"{\"");
        } else if (*p == '{') {
            if (literal.len > 0)
                add_part(&parsing, IA3_PART_LITERAL, literal.data, literal.len);
            resetStringInfo(&literal);
            p = parse_field(&parsing, p);
        } else {
            appendStringInfoChar(&literal, *p++);
        }
    }
    if (literal.len > 0)
        add_part(&parsing, IA3_PART_LITERAL, literal.data, literal.len);
    pfree(literal.data);
    t->nFields = Ia3StringIndexStrings(parsing.fields)->n;
    t->fields = Ia3StringIndexStrings(parsing.fields)->items;
    if (t->nFields == 0) {
        char *shown = excerpt(source, source);

        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("template \"%s\" has no field", shown),
                 strpbrk(source, " \t\n{}") == NULL
                     ? errhint("Write a single template as ARRAY['{%s}'], because '{%s}' is an array that "
                               "holds the word \"%s\".",
                               shown, shown, shown)
                     : errhint("Write {text} where the text of an example belongs.")));
    }
    return t;
}

Ia3Template **
Ia3TemplatesParse(const Ia3Strings *sources, Ia3Truncate truncate)
{
    Ia3Template **templates = palloc(sizeof(Ia3Template *) * Max(sources->n, 1));

    if (sources->n == 0)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("template must not be an empty array")));
    for (int i = 0; i < sources->n; i++)
        templates[i] = Ia3TemplateParse(sources->items[i], truncate);
    return templates;
}

/* Notes that what has been added since `begin` is a field. */
static void
end_field(Ia3Input *input, const Ia3Template *template, int begin, int end)
{
    input->tail = end;
    if (template->truncate == IA3_TRUNCATE_LONGEST)
        input->fields[input->nFields++] = (Ia3InputField){begin, end};
}

void
Ia3TemplateRender(const Ia3Template *template, Ia3FieldValue value, void *arg, const Ia3PromptLists *lists,
                  Ia3Input *input)
{
    StringInfoData out;

    initStringInfo(&out);
    memset(input, 0, sizeof *input);
    if (template->truncate == IA3_TRUNCATE_LONGEST)
        input->fields = palloc_extended(sizeof(Ia3InputField) * (Size) template->nParts, MCXT_ALLOC_HUGE);
    for (int i = 0; i < template->nParts; i++) {
        const Ia3TemplatePart *part = &template->parts[i];
        int begin = out.len;

        CHECK_FOR_INTERRUPTS();
        switch (part->kind) {
        case IA3_PART_LITERAL:
            appendStringInfoString(&out, part->text);
            break;
        case IA3_PART_FIELD:
            appendStringInfoString(&out, value(part->text, arg));
            end_field(input, template, begin, out.len);
            break;
        case IA3_PART_CHOICES:
            if (lists->choices == NULL)
                ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                                errmsg("template needs {choices}, but there are no choices")));
            appendStringInfoString(&out, lists->choices);
            break;
        case IA3_PART_DESCRIPTIONS:
            if (lists->descriptions == NULL)
                ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                                errmsg("template needs {descriptions}, but there are no descriptions")));
            appendStringInfoString(&out, lists->descriptions);
            break;
        }
    }
    input->text = out.data;
    input->len = out.len;
}

Ia3Truncate
Ia3TruncateFromName(const char *name)
{
    return name != NULL && strcmp(name, "longest") == 0 ? IA3_TRUNCATE_LONGEST : IA3_TRUNCATE_END;
}

const char *
Ia3TruncateName(Ia3Truncate truncate)
{
    return truncate == IA3_TRUNCATE_LONGEST ? "longest" : "end";
}
