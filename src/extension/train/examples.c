/*
 * examples.c
 *     Rows as examples to train on: their choices, and the part of a request that has them all.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "arrays.h"
#include "examples.h"
#include "extension/client/text.h"

static int
add_set(Ia3Examples *l, const Ia3Strings *choices)
{
    l->sets[l->nSets] = choices;
    return l->nSets++;
}

static int
compare_positions(const void *a, const void *b)
{
    return *(const int *) a - *(const int *) b;
}

/*
 * The positions of the labels of row i, which are those of the index, to which they are added unless `choices` says that these are
 * all there are. Returns the first position; a multi-label row may have none.
 */
static int
find_labels(Ia3Examples *l, int i, Ia3StringIndex *index, const Ia3Strings *choices)
{
    const Ia3TrainRow *row = &l->rows->rows[i];
    int n = row->labels ? row->labels->n : 1, one = 0, *at = n == 1 ? &one : Ia3ArrayOf(n, sizeof(int));

    for (int k = 0; k < n; k++) {
        char *label = row->labels ? row->labels->items[k] : row->label;
        bool found;

        at[k] = choices ? Ia3StringIndexFind(index, label) : Ia3StringIndexAdd(index, label, &found);
        if (at[k] < 0)
            Ia3RaiseTrainLabel(l->rows, i, label, choices);
    }
    if (row->labels == NULL)
        return one;
    qsort(at, n, sizeof(int), compare_positions);
    l->nRight[i] = n;
    l->right[i] = Ia3ArrayOf(n, sizeof(int));
    memcpy(l->right[i], at, sizeof(int) * n);
    return 0;
}

/* Whether every row without choices of its own has the only label that there is. */
static bool
has_one_answer(const Ia3Examples *l)
{
    for (int i = 0; l->nRight && i < l->rows->n; i++)
        if (l->rows->rows[i].choices == NULL && l->nRight[i] == 0)
            return false;
    return l->common->n == 1;
}

/*
 * Determines the choices of rows that have none of their own: the given ones, or else the distinct labels in order of
 * first appearance. Fills in the labels of these rows.
 */
static void
label_common(Ia3Examples *l, const Ia3Strings *given)
{
    Ia3StringIndex *index = Ia3StringIndexCreate();
    int first = -1;
    bool found;

    for (int i = 0; given && i < given->n; i++)
        Ia3StringIndexAdd(index, given->items[i], &found);
    for (int i = 0; i < l->rows->n; i++) {
        Ia3TrainRow *row = &l->rows->rows[i];

        CHECK_FOR_INTERRUPTS();
        if (row->choices != NULL)
            continue;
        if (first < 0)
            first = i;
        l->label[i] = find_labels(l, i, index, given);
    }
    if (first < 0 && given == NULL)
        return;
    l->common = Ia3StringIndexStrings(index);
    Ia3CheckChoices(l->common);
    if (given == NULL && has_one_answer(l))
        ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE),
                        errmsg("every example has the label \"%s\"", l->common->items[0]),
                        errhint("Specify the choices explicitly if other labels are possible.")));
}

/*
 * Fills in the labels and set[] of a row that has its own choices. *index has those of the row with its own choices before this one,
 * which are the last set; NULL for the first.
 */
static void
label_own(Ia3Examples *l, int i, Ia3StringIndex **index)
{
    Ia3TrainRow *row = &l->rows->rows[i];

    /* Neighboring rows often have the same choices. */
    if (*index == NULL || !Ia3StringsEqual(l->sets[l->nSets - 1], row->choices)) {
        bool found;

        Ia3CheckChoices(row->choices);
        *index = Ia3StringIndexCreate();
        for (int c = 0; c < row->choices->n; c++)
            Ia3StringIndexAdd(*index, row->choices->items[c], &found);
        if (l->nSets == 0 || !Ia3StringsEqual(l->sets[l->nSets - 1], row->choices))
            add_set(l, row->choices);
    }
    l->set[i] = l->nSets - 1;
    l->label[i] = find_labels(l, i, *index, row->choices);
}

static void
word_sets(Ia3Examples *l, const Ia3Wording *wording)
{
    l->worded = Ia3ArrayOf(l->nSets, sizeof(Ia3ChoiceSet));
    l->lists = Ia3ArrayOf(l->nSets, sizeof(Ia3PromptLists));
    for (int i = 0; i < l->nSets; i++) {
        CHECK_FOR_INTERRUPTS();
        l->worded[i] = Ia3WordingScored(wording, l->sets[i]);
        l->worded[i].multiLabel = l->rows->multiLabel;
        l->lists[i] = Ia3WordingLists(wording, l->sets[i]);
    }
}

void
Ia3ExamplesCheckWording(const Ia3Examples *l, const Ia3Wording *wording, Ia3Template **templates,
                        int nTemplates)
{
    bool shown = false;

    Ia3WordingCheckLabels(wording, l->sets, l->nSets);
    for (int k = 0; k < nTemplates; k++)
        for (int i = 0; i < templates[k]->nParts; i++)
            shown |= templates[k]->parts[i].kind == IA3_PART_DESCRIPTIONS;
    if (wording && wording->descriptions && !shown)
        ereport(ERROR,
                (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no template shows the descriptions"),
                 errhint("Write {descriptions} in the template where they belong.")));
}

/* How many verbalizers each label of each set has; nothing if there are none. */
static void
put_verbalizers(ia3_writer *w, const Ia3Examples *l)
{
    bool any = false;

    for (int i = 0; i < l->nSets; i++)
        any |= l->worded[i].scored->n > l->worded[i].labels->n;
    ia3_put_u32(w, any ? l->nSets : 0);
    for (int i = 0; any && i < l->nSets; i++) {
        const Ia3ChoiceSet *set = &l->worded[i];
        int n = set->first ? set->labels->n : 0;

        ia3_put_u32(w, n);
        for (int c = 0; c < n; c++)
            ia3_put_u32(w, set->first[c + 1] - set->first[c]);
    }
}

/* ERROR if there is nothing to learn, because no label is right for any row. */
static void
check_any_label(const Ia3TrainRows *rows)
{
    for (int i = 0; i < rows->n; i++)
        if (rows->rows[i].labels->n > 0)
            return;
    ereport(ERROR, (errcode(ERRCODE_INVALID_PARAMETER_VALUE), errmsg("no row of the query has a label"),
                    errdetail("The arrays of labels are all empty.")));
}

/* The labels of an example of a TRAIN. */
static void
put_labels(ia3_writer *w, const Ia3Examples *l, int i)
{
    int n = l->nRight ? l->nRight[i] : 1;

    ia3_put_u32(w, n);
    for (int k = 0; k < n; k++)
        ia3_put_u32(w, l->nRight ? l->right[i][k] : l->label[i]);
}

Ia3Examples *
Ia3ExamplesLabel(Ia3TrainRows *rows, const Ia3Strings *given, const Ia3Wording *wording)
{
    Ia3Examples *l = palloc0(sizeof(Ia3Examples));
    Ia3StringIndex *own = NULL;
    int common = 0;

    l->rows = rows;
    l->sets = Ia3ArrayOf((Size) rows->n + 1, sizeof(Ia3Strings *));
    l->set = Ia3ArrayOf(rows->n, sizeof(int));
    l->label = Ia3ArrayOf(rows->n, sizeof(int));
    if (rows->multiLabel) {
        l->nRight = Ia3ArrayOf(rows->n, sizeof(int));
        l->right = Ia3ArrayOf(rows->n, sizeof(int *));
        check_any_label(rows);
    }
    label_common(l, given);
    if (l->common != NULL)
        common = add_set(l, l->common);
    for (int i = 0; i < rows->n; i++) {
        if (rows->rows[i].choices != NULL)
            label_own(l, i, &own);
        else
            l->set[i] = common;
    }
    word_sets(l, wording);
    return l;
}

void
Ia3ExamplesPut(ia3_writer *w, const Ia3Examples *l, Ia3Template **templates, int nTemplates)
{
    MemoryContext scratch =
        AllocSetContextCreate(CurrentMemoryContext, "ia3 rendering", ALLOCSET_DEFAULT_SIZES);
    MemoryContext old = MemoryContextSwitchTo(scratch);

    ia3_put_u32(w, l->nSets);
    for (int i = 0; i < l->nSets; i++)
        Ia3PutChoices(w, l->worded[i].scored, l->worded[i].multiLabel);
    put_verbalizers(w, l);
    ia3_put_u32(w, l->rows->n);
    for (int i = 0; i < l->rows->n; i++) {
        CHECK_FOR_INTERRUPTS();
        ia3_put_u32(w, l->set[i]);
        put_labels(w, l, i);
        ia3_put_u32(w, nTemplates);
        for (int k = 0; k < nTemplates; k++) {
            Ia3Input input;

            Ia3TrainRowRender(l->rows, &l->rows->rows[i], templates[k], &l->lists[l->set[i]], &input);
            Ia3PutInput(w, &input);
        }
        MemoryContextReset(scratch);
    }
    MemoryContextSwitchTo(old);
    MemoryContextDelete(scratch);
}
