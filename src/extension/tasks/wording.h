/*
 * wording.h
 *     How the model reads the labels of a task: verbalizers in their place, and descriptions of them.
 */
#ifndef IA3_WORDING_H
#define IA3_WORDING_H

#include "utils/jsonb.h"

#include "extension/client/string_list.h"
#include "json_object.h"
#include "template.h"

/* What a task says about its labels, not checked yet. Results always name the labels themselves. */
typedef struct Ia3Wording {
    Jsonb *verbalizers;  /* {label: text or [text, ...]}; NULL: labels are scored as they are */
    Jsonb *descriptions; /* {label: text}; NULL: there are none */
} Ia3Wording;

/* A set of choices, and what the engine scores in their place. */
typedef struct Ia3ChoiceSet {
    const Ia3Strings *labels;
    const Ia3Strings
        *scored; /* the verbalizers of the first label, those of the second, ...; `labels` without any */
    const int
        *first; /* [labels->n + 1] where each label's verbalizers begin; NULL: there are no verbalizers */
    bool multiLabel; /* any number of the labels are right (protocol.h, CHOICES) */
} Ia3ChoiceSet;

/*
 * Wording of two values, of which each may be NULL or a JSON null; NULL if there is nothing in them. They are not copied, and not
 * checked: that a task's wording is wrong is an error of the calls that need it.
 */
extern Ia3Wording *Ia3WordingMake(Jsonb *verbalizers, Jsonb *descriptions);

/*
 * ERROR 22023 unless both are objects, verbalizers are texts or arrays of texts, and descriptions are texts; empty ones are an
 * ERROR, too. `wording` may be NULL.
 */
extern void Ia3WordingCheck(const Ia3Wording *wording);

/*
 * What is scored for these labels. The result points to `labels` and to palloc'd memory. ERROR as for Ia3WordingCheck, 22023 if two labels have the same verbalizer, 54000 for more than
 * ia3.max_choices verbalizers.
 */
extern Ia3ChoiceSet Ia3WordingScored(const Ia3Wording *wording, const Ia3Strings *labels);

/*
 * What {choices} and {descriptions} stand for: the first verbalizer of each label, joined by ", ", and each followed by its
 * description, joined by "; ". A label without a description stands alone. `labels` may be NULL.
 * ERROR as for Ia3WordingCheck.
 */
extern Ia3PromptLists Ia3WordingLists(const Ia3Wording *wording, const Ia3Strings *labels);

/* ERROR 22023 if the wording names a label that none of the sets contains, and as for Ia3WordingCheck. */
extern void Ia3WordingCheckLabels(const Ia3Wording *wording, const Ia3Strings *const *sets, int nSets);

/* Adds the members "verbalizers" and "descriptions", where there are any. */
extern void Ia3WordingPut(const Ia3Wording *wording, Ia3JsonObject *recipe);

#endif
