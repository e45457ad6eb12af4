/*
 * train_example.c
 *     One training example: checking it, hashing it, and the questions that its losses are made of.
 */
#include "train_example.h"

#include "engine/base/rng.h"

/* The choices that one label, or one verbalizer of it, has in the set. */
static int
branches(const ia3_train_example *e)
{
    return e->choices->given ? 2 : 1;
}

int
ia3_train_example_labels(const ia3_train_example *e)
{
    return e->verbalizers ? e->verbalizers->n : e->choices->n / branches(e);
}

bool
ia3_train_example_check(const ia3_train_example *e, int number, ia3_error *err)
{
    const int labels = ia3_train_example_labels(e);
    bool known = e->choices->given || (e->label >= 0 && e->label < labels);
    for (int i = 0; e->choices->given && i < e->n_right; i++)
        known = known && e->right[i] < (uint32_t) labels && (i == 0 || e->right[i] > e->right[i - 1]);
    if (e->n_texts < 1)
        return ia3_fail(err, IA3_E_INVALID, "example %d has no text", number);
    return known || ia3_fail(err, IA3_E_INVALID, "the label of example %d is not among its choices", number);
}

static uint64_t
hash_ids(uint64_t hash, const int32_t *ids, int n)
{
    hash = ia3_hash_add(hash, (uint64_t) n);
    for (int i = 0; i < n; i++)
        hash = ia3_hash_add(hash, (uint32_t) ids[i]);
    return hash;
}

uint64_t
ia3_train_example_hash(uint64_t hash, const ia3_train_example *e)
{
    hash = ia3_hash_add(hash, (uint64_t) (e->choices->given ? e->n_right : e->label));
    hash = ia3_hash_add(hash, (uint64_t) e->choices->n);
    for (int i = 0; e->choices->given && i < e->n_right; i++)
        hash = ia3_hash_add(hash, e->right[i]);
    for (int i = 0; e->choices->given && i < e->choices->n; i++)
        hash = ia3_hash_add(hash, (uint64_t) e->choices->given[i]);
    for (int l = 0; e->verbalizers && l < e->verbalizers->n; l++)
        hash = ia3_hash_add(hash, (uint64_t) e->verbalizers->first[l + 1]);
    for (int c = 0; c < e->choices->n; c++)
        hash = hash_ids(hash, e->choices->ids[c], e->choices->len[c]);
    hash = ia3_hash_add(hash, (uint64_t) e->n_texts);
    for (int k = 0; k < e->n_texts; k++)
        hash = hash_ids(hash, e->ids[k], e->n_ids[k]);
    return hash;
}

int
ia3_train_example_questions(const ia3_train_example *e)
{
    return e->choices->given ? ia3_train_example_labels(e) : 1;
}

void
ia3_train_example_ask(const ia3_train_example *e, const ia3_choices *choices, int first_pair, bool chains,
                      double weight, ia3_loss_question *questions)
{
    const int n = ia3_train_example_questions(e);
    ia3_loss_question q = {.choices = choices,
                           .end = choices->n,
                           .correct = e->label,
                           .first_pair = first_pair,
                           .chains = chains,
                           .weight = weight,
                           .share = 1.0 / n};
    if (!choices->given) {
        questions[0] = q;
        return;
    }
    for (int l = 0, r = 0; l < n; l++) {
        const bool right = r < e->n_right && e->right[r] == (uint32_t) l;
        r += right;
        q.begin = 2 * l;
        q.end = 2 * l + 2;
        q.correct = right ? q.begin : q.begin + 1;
        questions[l] = q;
    }
}
