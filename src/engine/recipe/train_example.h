/*
 * train_example.h
 *     One training example: its texts, its choices, and which of them are right.
 */
#ifndef IA3_TRAIN_EXAMPLE_H
#define IA3_TRAIN_EXAMPLE_H

#include "engine/model/choices.h"
#include "loss.h"
#include "verbalizers.h"

/*
 * The texts are the example's renderings under each template, of which each access draws one at random. If labels have
 * several verbalizers, each access draws one for each label, too.
 *
 * Of an ordinary set of choices, one label is right. Of a multi-label set, whose choices are contrasted (choices.h), any
 * number of labels are: label l, or its verbalizer v, has the choices 2v ("yes") and 2v + 1 ("no"). `verbalizers` counts such
 * pairs. Labels that are not in `right` are wrong: their answer "no" is the correct one.
 */
typedef struct ia3_train_example {
    int n_texts;
    const int32_t *const *ids; /* [n_texts][n_ids[t]], </s> included */
    const int *n_ids;
    const ia3_choices *choices;
    const ia3_verbalizers *verbalizers; /* NULL: each choice, or each pair of a multi-label set, is a label */
    int label;                          /* of an ordinary set */
    int n_right;                        /* of a multi-label set */
    const uint32_t *right;              /* [n_right] labels, ascending */
} ia3_train_example;

/* The number of labels of its choices. */
int ia3_train_example_labels(const ia3_train_example *e);

/* IA3_E_INVALID, with the example's number, unless it has a text and its labels are among its choices. */
bool ia3_train_example_check(const ia3_train_example *e, int number, ia3_error *err);

/* Mixes all that training depends on into a hash. */
uint64_t ia3_train_example_hash(uint64_t hash, const ia3_train_example *e);

/* How many questions (loss.h) the example has: one, or one for each label of a multi-label set. */
int ia3_train_example_questions(const ia3_train_example *e);

/*
 * Writes the example's questions [ia3_train_example_questions]. `choices` are those of this access, which have one choice, or one
 * pair, for each label; first_pair and chains say where their log-probabilities are.
 */
void ia3_train_example_ask(const ia3_train_example *e, const ia3_choices *choices, int first_pair,
                           bool chains, double weight, ia3_loss_question *questions);

#endif
