/*
 * test_multi_label.c
 *     Sets of choices of which any number are right: scores, losses, gradients and optimizer steps compared with a reference
 *     (test/golden/multi_label.py), finite differences, verbalizers, states, pieces of large sets, and refused examples.
 */
#include "golden_methods.h"

#include "engine/base/rng.h"

#define BOTH "t5-relu-tied t5-gated-untied "

/* The answers of multi_label.py. */
static const int32_t yes[] = {23, 1}, no[] = {31, 29, 1};

typedef struct fixture {
    golden *g;
    golden_reference expected;
    golden_examples examples;
    double weights[GOLDEN_EXAMPLES];
    uint32_t right[GOLDEN_EXAMPLES][8];
} fixture;

static bool
is_multi_label(int example)
{
    return example % 3 != 0;
}

/* The labels are the choices without their </s>; each is followed by an answer. */
static ia3_choices *
answers_of(const golden *g, const ia3_choices *labels)
{
    const int n = 2 * labels->n;
    int32_t tokens[16][64];
    const int32_t *ids[16];
    int len[16], bad_a, bad_b;
    ia3_error err = {0};
    assert_true(n <= 16);
    for (int i = 0; i < n; i++) {
        const int32_t *answer = i % 2 ? no : yes;
        const int label = labels->len[i / 2] - 1, of_answer = i % 2 ? 3 : 2;
        memcpy(tokens[i], labels->ids[i / 2], (size_t) label * sizeof(int32_t));
        memcpy(tokens[i] + label, answer, (size_t) of_answer * sizeof(int32_t));
        ids[i] = tokens[i];
        len[i] = label + of_answer;
    }
    ia3_choices *c = ia3_choices_create(ids, len, n, g->config->start_id, &bad_a, &bad_b, &err);
    golden_ok(c, &err);
    assert_int_equal(ia3_choices_contrast(c), -1);
    return c;
}

static fixture *
open_fixture(void **state)
{
    fixture *f = calloc(1, sizeof *f);
    f->g = golden_open(*state);
    golden_reference_open(&f->expected, f->g, "multi_label");
    golden_examples_open(f->g, &f->examples);
    f->examples.weights = f->weights;
    for (int i = 0; i < GOLDEN_EXAMPLES; i++) {
        ia3_train_example *e = &f->examples.e[i];
        f->weights[i] = golden_expected(&f->expected, GOLDEN_EXAMPLES, "weights")[i];
        if (!is_multi_label(i))
            continue;
        const int n = e->choices->n;
        const float *right = golden_expected(&f->expected, (size_t) n, "right.%d", i);
        ia3_choices *answers = answers_of(f->g, e->choices);
        ia3_choices_free((ia3_choices *) e->choices);
        e->choices = answers;
        e->right = f->right[i];
        for (int l = 0; l < n; l++)
            if (right[l] > 0)
                f->right[i][e->n_right++] = (uint32_t) l;
        assert_int_equal(ia3_train_example_labels(e), n);
    }
    assert_int_equal(f->examples.e[1].n_right, 0);
    assert_int_equal(f->examples.e[4].n_right, f->examples.e[4].choices->n / 2);
    return f;
}

static void
close_fixture(fixture *f)
{
    golden_examples_close(&f->examples);
    golden_reference_close(&f->expected);
    golden_close(f->g);
    free(f);
}

static ia3_recipe
recipe_of(const fixture *f, Ia3LossAveraging averaging)
{
    ia3_recipe recipe = golden_recipe(&f->g->layout->variant);
    recipe.averaging = averaging;
    return recipe;
}

static const char *
mode_name(Ia3LossAveraging averaging)
{
    return averaging == IA3_LOSS_EXAMPLE ? "example" : "batch";
}

/* All examples in one batch, ordinary and multi-label ones, once more one by one, and all with their tries in pieces. */
static void
test_scores(void **state)
{
    fixture *f = open_fixture(state);
    ia3_score_row rows[GOLDEN_EXAMPLES];
    double scores[GOLDEN_EXAMPLES][16], alone[16];
    ia3_error err = {0};
    for (int i = 0; i < GOLDEN_EXAMPLES; i++) {
        const ia3_train_example *e = &f->examples.e[i];
        rows[i] = (ia3_score_row){.adapter = f->g->adapter,
                                  .ids = e->ids[0],
                                  .n_ids = e->n_ids[0],
                                  .choices = e->choices,
                                  .scores = scores[i]};
    }
    golden_ok(ia3_score(f->g->m, rows, GOLDEN_EXAMPLES, &err), &err);
    for (int i = 0; i < GOLDEN_EXAMPLES; i++) {
        ia3_score_row row = rows[i];
        const int n = row.choices->n;
        row.scores = alone;
        golden_ok(ia3_score(f->g->m, &row, 1, &err), &err);
        for (int c = 0; c < n; c++)
            golden_limit(f->g, "alone", fabs(alone[c] - scores[i][c]), 1e-5);
        if (!is_multi_label(i))
            continue;
        const float *expected = golden_expected(&f->expected, (size_t) n / 2, "scores.%d", i);
        for (int l = 0; l < n / 2; l++)
            golden_limit(f->g, "scores", fabs(scores[i][2 * l] - scores[i][2 * l + 1] - expected[l]), 3e-5);
        int *order = ia3_choices_order(row.choices);
        for (int from = 0; from < n;) {
            ia3_choices *piece = ia3_choices_piece(row.choices, order, from, 4);
            row.choices = piece;
            golden_ok(ia3_score(f->g->m, &row, 1, &err), &err);
            for (int c = 0; c < piece->n; c++)
                golden_limit(f->g, "pieces", fabs(alone[c] - scores[i][order[from + c]]), 1e-5);
            from += piece->n;
            row.choices = rows[i].choices;
            ia3_choices_free(piece);
        }
        free(order);
    }
    close_fixture(f);
}

/* The losses of five examples, ordinary and multi-label ones, and their gradients. */
static void
check_gradients(const fixture *f, Ia3LossAveraging averaging)
{
    static const int batch[] = {0, 1, 2, 3, 4};
    const char *mode = mode_name(averaging);
    const ia3_layout *l = f->g->layout;
    const float *losses = golden_expected(&f->expected, 4, "%s.losses", mode);
    const float *of_losses = golden_expected(&f->expected, 3, "of_losses");
    float *got = malloc(l->n_values * sizeof *got), *want = golden_gather(&f->expected, l, "%s.grad.", mode);
    ia3_recipe recipe = recipe_of(f, averaging);
    ia3_train_report r = {0};
    ia3_error err = {0};
    recipe.batch_size = 5;
    recipe.lm_weight = of_losses[0];
    recipe.unlikelihood_weight = of_losses[1];
    recipe.length_norm_weight = of_losses[2];
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, f->g->vectors);
    golden_ok(ia3_train_gradients(t, batch, golden_no_texts, 5, got, &r, &err), &err);
    const double all[] = {r.loss, r.lm_loss, r.unlikelihood_loss, r.length_norm_loss};
    for (int k = 0; k < 4; k++)
        golden_limit(f->g, mode, fabs(all[k] - losses[k]), 1e-5 * fabs(losses[k]));
    golden_check_gradients(f->g, l, got, want);
    ia3_train_free(t);
    free(got);
    free(want);
}

static void
check_steps(const fixture *f, Ia3LossAveraging averaging)
{
    const char *mode = mode_name(averaging);
    const ia3_layout *l = f->g->layout;
    const ia3_recipe recipe = recipe_of(f, averaging);
    float *got = malloc(l->n_values * sizeof *got), *want = golden_gather(&f->expected, l, "%s.final.", mode);
    int n;
    int32_t *indices = golden_ints(golden_find(f->g, "steps.indices"), &n);
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, f->g->vectors);
    golden_check_steps(f->g, mode, t, indices, 20, golden_expected(&f->expected, 20, "%s.steps", mode));
    ia3_train_values(t, got);
    for (int i = 0; i < l->n; i++) {
        const ia3_layout_entry *e = &l->entries[i];
        golden_limit(f->g, e->name, golden_relative(got + e->offset, want + e->offset, (size_t) e->len),
                     1e-4);
    }
    ia3_train_free(t);
    free(indices);
    free(got);
    free(want);
}

static void
test_reference(void **state)
{
    fixture *f = open_fixture(state);
    check_gradients(f, IA3_LOSS_BATCH);
    check_gradients(f, IA3_LOSS_EXAMPLE);
    check_steps(f, IA3_LOSS_BATCH);
    check_steps(f, IA3_LOSS_EXAMPLE);
    close_fixture(f);
}

static void
test_differences(void **state)
{
    fixture *f = open_fixture(state);
    for (int k = 0; k < 4; k++) {
        ia3_recipe recipe = recipe_of(f, k & 1 ? IA3_LOSS_EXAMPLE : IA3_LOSS_BATCH);
        recipe.dropout = k & 2 ? 0.1 : 0;
        golden_check_differences(f->g, &f->examples, &recipe, f->g->vectors, false);
    }
    close_fixture(f);
}

static float *
values_of(const fixture *f, ia3_train *t)
{
    float *values = malloc(f->g->layout->n_values * sizeof *values);
    ia3_train_values(t, values);
    ia3_train_free(t);
    return values;
}

/* Six steps; the caller frees the values. */
static float *
train(const fixture *f, const ia3_train_example *examples, int n, const ia3_recipe *recipe)
{
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(f->g->m, examples, n, recipe, NULL, &err);
    golden_ok(t, &err);
    for (int s = 0; s < 6; s++)
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    return values_of(f, t);
}

static void
check_same(const fixture *f, float *a, float *b, bool expected)
{
    assert_true((memcmp(a, b, f->g->layout->n_values * sizeof *a) == 0) == expected);
    free(a);
    free(b);
}

/* Two of the three labels of an example as the verbalizers of one label: what the access draws is trained on. */
static void
test_verbalizers(void **state)
{
    fixture *f = open_fixture(state);
    ia3_recipe recipe = recipe_of(f, IA3_LOSS_BATCH);
    const ia3_train_example *three = &f->examples.e[7];
    int first[] = {0, 2, 3}, drawn[2] = {0};
    const ia3_verbalizers v = {.n = 2, .first = first};
    static const uint32_t right[] = {0};
    ia3_train_example with = *three;
    ia3_error err = {0};
    assert_int_equal(three->choices->n, 6);
    with.verbalizers = &v;
    with.n_right = 1;
    with.right = right;
    recipe.dropout = 0.1;
    recipe.batch_size = 1;
    ia3_train *by_hand = NULL;
    ia3_train_example sets[2];
    ia3_choices *of[2];
    for (int k = 0; k < 2; k++) { /* the labels k and 2 */
        const int32_t *ids[4];
        int len[4], bad_a, bad_b;
        for (int i = 0; i < 4; i++) {
            const int c = i < 2 ? 2 * k + i : 4 + i - 2;
            ids[i] = three->choices->ids[c];
            len[i] = three->choices->len[c];
        }
        of[k] = ia3_choices_create(ids, len, 4, f->g->config->start_id, &bad_a, &bad_b, &err);
        golden_ok(of[k], &err);
        assert_int_equal(ia3_choices_contrast(of[k]), -1);
        sets[k] = with;
        sets[k].verbalizers = NULL;
        sets[k].choices = of[k];
    }
    by_hand = ia3_train_create(f->g->m, sets, 2, &recipe, NULL, &err);
    golden_ok(by_hand, &err);
    for (uint64_t access = 0; access < 6; access++) {
        const int k = (int) ia3_draw(recipe.seed, IA3_STREAM_VERBALIZER, access * IA3_MAX_CHOICES, 2);
        drawn[k]++;
        golden_ok(ia3_train_step_on(by_hand, &k, golden_no_texts, 1, &err), &err);
    }
    assert_true(drawn[0] > 0 && drawn[1] > 0);
    check_same(f, train(f, &with, 1, &recipe), values_of(f, by_hand), true);
    ia3_choices_free(of[0]);
    ia3_choices_free(of[1]);
    close_fixture(f);
}

/* A state is continued with the same labels, and refused with others. */
static void
test_states(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_recipe recipe = recipe_of(f, IA3_LOSS_EXAMPLE);
    ia3_train_example others[GOLDEN_EXAMPLES];
    static const uint32_t first[] = {0};
    ia3_error err = {0};
    size_t len;
    ia3_train *t = golden_job(f->g, &f->examples, &recipe, NULL);
    for (int s = 0; s < 3; s++)
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    uint8_t *saved = ia3_train_save(t, &len, &err);
    for (int s = 0; s < 3; s++)
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    float *whole = values_of(f, t);

    memcpy(others, f->examples.e, sizeof others);
    others[1].right = first;
    others[1].n_right = 1;
    t = ia3_train_create(f->g->m, others, GOLDEN_EXAMPLES, &recipe, NULL, &err);
    golden_ok(t, &err);
    golden_ok(ia3_train_weigh(t, f->weights, &err), &err);
    assert_false(ia3_train_restore(t, saved, len, &err));
    assert_string_equal(err.message,
                        "the saved state belongs to a training run with other examples or options");
    memset(&err, 0, sizeof err);
    ia3_train_free(t);

    t = golden_job(f->g, &f->examples, &recipe, NULL);
    golden_ok(ia3_train_restore(t, saved, len, &err), &err);
    for (int s = 0; s < 3; s++)
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    check_same(f, values_of(f, t), whole, true);
    check_same(f, train(f, others, GOLDEN_EXAMPLES, &recipe),
               train(f, f->examples.e, GOLDEN_EXAMPLES, &recipe), false);
    free(saved);
    close_fixture(f);
}

static void
test_refused(void **state)
{
    fixture *f = open_fixture(state);
    const ia3_recipe recipe = recipe_of(f, IA3_LOSS_BATCH);
    static const uint32_t wrong[][2] = {{3, 4}, {1, 1}, {1, 0}};
    for (int k = 0; k < 3; k++) {
        ia3_train_example bad = f->examples.e[1];
        ia3_error err = {0};
        bad.right = wrong[k];
        bad.n_right = k == 0 ? 1 : 2;
        assert_null(ia3_train_create(f->g->m, &bad, 1, &recipe, NULL, &err));
        assert_int_equal(err.code, IA3_E_INVALID);
        assert_string_equal(err.message, "the label of example 1 is not among its choices");
    }
    close_fixture(f);
}

/* Alternatives that begin differently have nothing that could be given. */
static void
test_contrast(void **state)
{
    static const int32_t a[] = {5, 6, 1}, b[] = {5, 7, 8, 1}, c[] = {9, 1}, d[] = {4, 1};
    int bad_a, bad_b;
    ia3_error err = {0};
    ia3_choices *set = ia3_choices_create((const int32_t *const[]){a, b, c, d}, (const int[]){3, 4, 2, 2}, 4,
                                          0, &bad_a, &bad_b, &err);
    golden_ok(set, &err);
    assert_int_equal(ia3_choices_contrast(set), 1);
    assert_int_equal(set->given[0], 1);
    assert_int_equal(set->given[1], 1);
    assert_int_equal(set->given[2], 0);
    ia3_choices_free(set);
}

int
main(void)
{
    static const golden_test tests[] = {
        {"scores", test_scores, false, BOTH},
        {"reference", test_reference, false, BOTH},
        {"differences", test_differences, false, "t5-gated-untied "},
        {"verbalizers", test_verbalizers, false, "t5-relu-tied "},
        {"states", test_states, false, "t5-relu-tied "},
        {"refused", test_refused, false, "t5-relu-tied "},
        {"contrast", test_contrast, false, "t5-relu-tied "},
    };
    return golden_run("multi_label", tests, sizeof tests / sizeof *tests);
}
