/*
 * wording.c
 *     How the model reads the labels of a task: verbalizers in their place, and descriptions of them.
 *
 * The engine knows nothing of labels in a SCORE request: it scores the verbalizers, and the score of a label is the mean
 * of theirs (score_request.c). In training it draws one verbalizer of each label for each access to an example.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"

#include "wording.h"
#include "extension/guc.h"

static void
raise_shape(const char *argument, const char *label, const char *detail)
{
    if (label == NULL)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("%s must be a JSON object", argument)));
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                    errmsg("invalid %s of label \"%s\"", argument, label), errdetail("%s", detail)));
}

static bool
is_text(const JsonbValue *value)
{
    return value->type == jbvString && value->val.string.len > 0;
}

/* Whether the value is an array of at least one text, and of nothing else. */
static bool
is_text_array(const JsonbValue *value)
{
    uint32 n;

    if (value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data) ||
        JsonContainerIsScalar(value->val.binary.data))
        return false;
    n = JsonContainerSize(value->val.binary.data);
    for (uint32 i = 0; i < n; i++)
        if (!is_text(getIthJsonbValueFromContainer(value->val.binary.data, i)))
            return false;
    return n > 0;
}

static void
check_object(Jsonb *object, const char *argument, bool lists)
{
    JsonbIterator *it;
    JsonbIteratorToken token;
    JsonbValue key, value;

    if (object == NULL)
        return;
    if (!JB_ROOT_IS_OBJECT(object))
        raise_shape(argument, NULL, NULL);
    it = JsonbIteratorInit(&object->root);
    (void) JsonbIteratorNext(&it, &key, false);
    while ((token = JsonbIteratorNext(&it, &key, true)) == WJB_KEY) {
        char *label = pnstrdup(key.val.string.val, key.val.string.len);

        (void) JsonbIteratorNext(&it, &value, true);
        if (!is_text(&value) && !(lists && is_text_array(&value)))
            raise_shape(argument, label,
                        lists ? "It must be a text, or an array of texts, and no text may be empty."
                              : "It must be a text, and not an empty one.");
        pfree(label);
    }
}

void
Ia3WordingCheck(const Ia3Wording *wording)
{
    if (wording == NULL)
        return;
    check_object(wording->verbalizers, "verbalizers", true);
    check_object(wording->descriptions, "descriptions", false);
}

/* The value, unless it is a JSON null or an empty object. */
static Jsonb *
unless_empty(Jsonb *value)
{
    JsonbValue scalar;

    if (value == NULL || (JB_ROOT_IS_OBJECT(value) && JB_ROOT_COUNT(value) == 0))
        return NULL;
    if (JB_ROOT_IS_SCALAR(value) && JsonbExtractScalar(&value->root, &scalar) && scalar.type == jbvNull)
        return NULL;
    return value;
}

Ia3Wording *
Ia3WordingMake(Jsonb *verbalizers, Jsonb *descriptions)
{
    Ia3Wording *wording = palloc(sizeof(Ia3Wording));

    wording->verbalizers = unless_empty(verbalizers);
    wording->descriptions = unless_empty(descriptions);
    return wording->verbalizers || wording->descriptions ? wording : NULL;
}

/* The member of the object for this label; NULL if there is none. */
static JsonbValue *
find_label(Jsonb *object, const char *label)
{
    JsonbValue key = {.type = jbvString};

    if (object == NULL)
        return NULL;
    key.val.string.val = (char *) label;
    key.val.string.len = (int) strlen(label);
    return findJsonbValueFromContainer(&object->root, JB_FOBJECT, &key);
}

static char *
text_of(const JsonbValue *value)
{
    return pnstrdup(value->val.string.val, value->val.string.len);
}

static int
count_verbalizers(const JsonbValue *verbalizers)
{
    return verbalizers && verbalizers->type == jbvBinary
               ? (int) JsonContainerSize(verbalizers->val.binary.data)
               : 1;
}

/* Verbalizer i of a label; the label itself if it has none. */
static char *
get_verbalizer(const JsonbValue *verbalizers, const char *label, int i)
{
    if (verbalizers == NULL)
        return (char *) label;
    if (verbalizers->type == jbvString)
        return text_of(verbalizers);
    return text_of(getIthJsonbValueFromContainer(verbalizers->val.binary.data, (uint32) i));
}

/* ERROR if a verbalizer occurs twice. */
static void
check_distinct(const Ia3ChoiceSet *set)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();
    int *label = palloc(sizeof(int) * set->scored->n);

    for (int l = 0, i = 0; l < set->labels->n; l++)
        for (; i < set->first[l + 1]; i++) {
            bool found;
            int at = Ia3StringIndexAdd(index, set->scored->items[i], &found);

            if (found)
                ereport(ERROR,
                        (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                         errmsg("verbalizer \"%s\" is given twice", set->scored->items[i]),
                         label[at] == l ? errdetail("Label \"%s\" has it twice.", set->labels->items[l])
                                        : errdetail("It stands for label \"%s\" and for label \"%s\".",
                                                    set->labels->items[label[at]], set->labels->items[l])));
            label[at] = l;
        }
    pfree(label);
}

Ia3ChoiceSet
Ia3WordingScored(const Ia3Wording *wording, const Ia3Strings *labels)
{
    Ia3ChoiceSet set = {labels, labels, NULL, false};
    JsonbValue **verbalizers;
    Ia3Strings *scored;
    int *first;

    if (wording == NULL || wording->verbalizers == NULL)
        return set;
    Ia3WordingCheck(wording);
    verbalizers = palloc(sizeof(JsonbValue *) * Max(labels->n, 1));
    first = palloc(sizeof(int) * ((Size) labels->n + 1));
    first[0] = 0;
    for (int l = 0; l < labels->n; l++) {
        CHECK_FOR_INTERRUPTS();
        verbalizers[l] = find_label(wording->verbalizers, labels->items[l]);
        first[l + 1] = first[l] + count_verbalizers(verbalizers[l]);
        if (first[l + 1] > Ia3MaxChoices)
            ereport(ERROR, (errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
                            errmsg("there are more than %d verbalizers", Ia3MaxChoices),
                            errhint("Use fewer, or increase \"ia3.max_choices\".")));
    }
    scored = palloc(sizeof(Ia3Strings));
    scored->n = first[labels->n];
    scored->items = palloc(sizeof(char *) * Max(scored->n, 1));
    for (int l = 0; l < labels->n; l++)
        for (int i = first[l]; i < first[l + 1]; i++)
            scored->items[i] = get_verbalizer(verbalizers[l], labels->items[l], i - first[l]);
    pfree(verbalizers);
    set.scored = scored;
    set.first = first;
    check_distinct(&set);
    return set;
}

Ia3PromptLists
Ia3WordingLists(const Ia3Wording *wording, const Ia3Strings *labels)
{
    Ia3PromptLists lists = {NULL, NULL};
    StringInfoData choices, descriptions;

    if (labels == NULL)
        return lists;
    if (wording == NULL) {
        lists.choices = Ia3StringsJoin(labels, ", ");
        return lists;
    }
    Ia3WordingCheck(wording);
    initStringInfo(&choices);
    initStringInfo(&descriptions);
    for (int l = 0; l < labels->n; l++) {
        const char *label = labels->items[l];
        const char *name = get_verbalizer(find_label(wording->verbalizers, label), label, 0);
        const JsonbValue *description = find_label(wording->descriptions, label);

        CHECK_FOR_INTERRUPTS();
        appendStringInfo(&choices, "%s%s", l > 0 ? ", " : "", name);
        appendStringInfo(&descriptions, "%s%s", l > 0 ? "; " : "", name);
        if (description)
            appendStringInfo(&descriptions, ": %s", text_of(description));
    }
    lists.choices = choices.data;
    if (wording->descriptions)
        lists.descriptions = descriptions.data;
    return lists;
}

static void
check_labels(Jsonb *object, const char *argument, Ia3StringIndex *known)
{
    JsonbIterator *it;
    JsonbValue key;

    if (object == NULL)
        return;
    it = JsonbIteratorInit(&object->root);
    (void) JsonbIteratorNext(&it, &key, false);
    while (JsonbIteratorNext(&it, &key, true) == WJB_KEY) {
        char *label = pnstrdup(key.val.string.val, key.val.string.len);

        if (Ia3StringIndexFind(known, label) < 0)
            ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                            errmsg("%s name label \"%s\", which is not among the choices", argument, label)));
        pfree(label);
        (void) JsonbIteratorNext(&it, &key, true);
    }
}

void
Ia3WordingCheckLabels(const Ia3Wording *wording, const Ia3Strings *const *sets, int nSets)
{
    Ia3StringIndex *known;

    if (wording == NULL)
        return;
    Ia3WordingCheck(wording);
    known = Ia3StringIndexCreate();
    for (int s = 0; s < nSets; s++)
        for (int i = 0; i < sets[s]->n; i++) {
            bool found;

            Ia3StringIndexAdd(known, sets[s]->items[i], &found);
        }
    check_labels(wording->verbalizers, "verbalizers", known);
    check_labels(wording->descriptions, "descriptions", known);
}

void
Ia3WordingPut(const Ia3Wording *wording, Ia3JsonObject *recipe)
{
    if (wording && wording->verbalizers)
        Ia3JsonPutJsonb(recipe, "verbalizers", wording->verbalizers);
    if (wording && wording->descriptions)
        Ia3JsonPutJsonb(recipe, "descriptions", wording->descriptions);
}
