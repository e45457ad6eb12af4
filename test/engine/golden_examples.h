/*
 * golden_examples.h
 *     The training examples of a golden checkpoint ("example.N" in its files), and variants of methods to train with.
 */
#ifndef IA3_GOLDEN_EXAMPLES_H
#define IA3_GOLDEN_EXAMPLES_H

#include "golden_fixture.h"

#include "engine/recipe/train.h"

typedef struct golden_examples {
    ia3_train_example e[GOLDEN_EXAMPLES]; /* one text each */
    int32_t *ids[GOLDEN_EXAMPLES];
    int n_ids[GOLDEN_EXAMPLES];
    const double *weights; /* [GOLDEN_EXAMPLES] for jobs; NULL: all weigh the same */
} golden_examples;

/* A method's standard variant with some options changed, as JSON. */
static inline ia3_variant
golden_variant(const char *method, const char *options)
{
    ia3_error err = {0};
    ia3_variant v = ia3_variant_standard(ia3_method_require(ia3_methods, method, strlen(method), &err));
    golden_ok(ia3_variant_change(&v, options, strlen(options), &err), &err);
    return v;
}

static const int golden_no_texts[64]; /* every example's first text */

/* The examples point into *x, which must stay where it is. */
static inline void
golden_examples_open(const golden *g, golden_examples *x)
{
    x->weights = NULL;
    for (int i = 0; i < GOLDEN_EXAMPLES; i++) {
        char prefix[32];
        snprintf(prefix, sizeof prefix, "example.%d", i);
        x->ids[i] = golden_ints(golden_find(g, "%s.ids", prefix), &x->n_ids[i]);
        x->e[i] = (ia3_train_example){.n_texts = 1,
                                      .ids = (const int32_t *const *) &x->ids[i],
                                      .n_ids = &x->n_ids[i],
                                      .choices = golden_choices(g, prefix),
                                      .label = (int) *golden_values(g, 1, "%s.label", prefix)};
    }
}

static inline void
golden_examples_close(golden_examples *x)
{
    for (int i = 0; i < GOLDEN_EXAMPLES; i++) {
        free(x->ids[i]);
        ia3_choices_free((ia3_choices *) x->e[i].choices);
    }
}

#endif
