/*
 * template.h
 *     Prompt templates: plain text with {field}, {choices}, {descriptions} and the escapes {{ and }}.
 */
#ifndef IA3_TEMPLATE_H
#define IA3_TEMPLATE_H

#include "extension/client/string_list.h"
#include "extension/client/text.h"

#define IA3_DEFAULT_TEMPLATE "{text}"

/* What is cut off from an input that is too long. */
typedef enum Ia3Truncate {
    IA3_TRUNCATE_END,    /* the end, but not the template's text after the last field */
    IA3_TRUNCATE_LONGEST /* the longest field; neither the other fields nor the template's text */
} Ia3Truncate;

typedef enum Ia3TemplatePartKind {
    IA3_PART_LITERAL,
    IA3_PART_FIELD,
    IA3_PART_CHOICES,
    IA3_PART_DESCRIPTIONS
} Ia3TemplatePartKind;

typedef struct Ia3TemplatePart {
    Ia3TemplatePartKind kind;
    char *text; /* the literal, or the field's name */
} Ia3TemplatePart;

typedef struct Ia3Template {
    const char *source;
    Ia3Truncate truncate;
    int nParts;
    Ia3TemplatePart *parts;
    int nFields; /* distinct fields, {choices} and {descriptions} not counted */
    char **fields;
} Ia3Template;

/* "end" or "longest"; any other name is "end", as is NULL. */
extern Ia3Truncate Ia3TruncateFromName(const char *name);
extern const char *Ia3TruncateName(Ia3Truncate truncate);

/* What {choices} and {descriptions} stand for (wording.h); each is NULL if there is nothing that it could stand for. */
typedef struct Ia3PromptLists {
    const char *choices, *descriptions;
} Ia3PromptLists;

/*
 * Returns the value of a field, never NULL; the string must live until rendering ends. Raises an ERROR when there is
 * no such field.
 */
typedef const char *(*Ia3FieldValue)(const char *field, void *arg);

/*
 * The parsed template, palloc'd. ERROR 22023 with the position, in characters from 1, of a brace that does not match
 * or of an invalid name; also when the template has no field at all or refers to {label}.
 * A template with {descriptions} has IA3_TRUNCATE_LONGEST in any case, because the other rule might cut off all of the text that
 * follows them.
 */
extern Ia3Template *Ia3TemplateParse(const char *source, Ia3Truncate truncate);
/* Parses all templates of a task, in their order. ERROR as above, and 22023 when there are none. */
extern Ia3Template **Ia3TemplatesParse(const Ia3Strings *sources, Ia3Truncate truncate);

/* Fills in the template; the text is palloc'd. ERROR 22023 for a template that refers to a list that is NULL. */
extern void Ia3TemplateRender(const Ia3Template *template, Ia3FieldValue value, void *arg,
                              const Ia3PromptLists *lists, Ia3Input *input);

#endif
