/*
 * verbalizers.h
 *     Several texts for one label, of which each access to an example draws one.
 */
#ifndef IA3_VERBALIZERS_H
#define IA3_VERBALIZERS_H

#include <stdint.h>

#include "engine/model/choices.h"

/*
 * Which choices of a set stand for which label (of a multi-label set, which pairs of answers): those from first[label] up to but not including first[label + 1] are
 * the verbalizers of the label. Each label has at least one, and the last label ends with the set.
 */
typedef struct ia3_verbalizers {
    int n;      /* labels */
    int *first; /* [n + 1] */
} ia3_verbalizers;

/*
 * The set in which each label has one of its verbalizers, in the order of the labels, so that a label is the position of its
 * choice, or of its pair of answers. For labels with several, it is drawn by the number of the access to an example (docs/engine.md §3.2). The caller
 * frees the set with ia3_choices_free.
 */
ia3_choices *ia3_verbalizers_draw(const ia3_verbalizers *v, const ia3_choices *choices, uint64_t seed,
                                  uint64_t access);

#endif
