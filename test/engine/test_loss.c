/*
 * test_loss.c
 *     T-Few's losses: values computed by hand, gradients compared with differences, both ways of averaging, with weights of
 *     examples.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "engine/recipe/loss.h"

enum { EOS = 1 };

#define assert_near(got, want, tolerance) assert_true(fabs((got) - (want)) <= (tolerance))

/* Two examples: choices {5 6 1 | 7 1} gold 0, and {5 1 | 6 1 | 7 8 1} gold 2. */
typedef struct fixture {
    ia3_choices *c[2];
    ia3_loss_question e[2];
    int n_pairs;
    float lp[32];
} fixture;

static const double equal[2] = {1, 1}, unequal[2] = {0.3, 1.7};

static void
set_up(fixture *f, bool chains, const double weights[2])
{
    const int32_t a0[] = {5, 6, EOS}, a1[] = {7, EOS}, b0[] = {5, EOS}, b1[] = {6, EOS}, b2[] = {7, 8, EOS};
    int bad_a, bad_b;
    ia3_error err = {0};
    memset(f, 0, sizeof *f);
    f->c[0] =
        ia3_choices_create((const int32_t *const[]){a0, a1}, (const int[]){3, 2}, 2, 0, &bad_a, &bad_b, &err);
    f->c[1] = ia3_choices_create((const int32_t *const[]){b0, b1, b2}, (const int[]){2, 2, 3}, 3, 0, &bad_a,
                                 &bad_b, &err);
    f->e[0] = (ia3_loss_question){.choices = f->c[0],
                                  .end = 2,
                                  .correct = 0,
                                  .first_pair = 0,
                                  .weight = weights[0],
                                  .share = 1,
                                  .chains = chains};
    f->e[1] = (ia3_loss_question){.choices = f->c[1],
                                  .end = 3,
                                  .correct = 2,
                                  .first_pair = f->c[0]->n_pairs,
                                  .weight = weights[1],
                                  .share = 1,
                                  .chains = chains};
    f->n_pairs = f->c[0]->n_pairs + f->c[1]->n_pairs; /* no shared first tokens: as many as in chains */
    for (int i = 0; i < f->n_pairs; i++)
        f->lp[i] = -0.2f - 0.37f * (float) ((i * 7) % 11);
}

static void
tear_down(fixture *f)
{
    ia3_choices_free(f->c[0]);
    ia3_choices_free(f->c[1]);
}

static const ia3_recipe recipe = {
    .batch_size = 8, .lm_weight = 1, .unlikelihood_weight = 1, .length_norm_weight = 1};

/* The definitions once more, for chains, in the simplest form. */
static ia3_losses
expected(const float *lp, bool each, const double w[2])
{
    /* token counts per choice, in chain order */
    const int len[2][3] = {{3, 2, 0}, {2, 2, 3}}, n[2] = {2, 3}, gold[2] = {0, 2};
    double lm[2] = {0}, ul[2] = {0}, ce[2] = {0};
    int gold_tokens[2] = {0}, wrong_tokens[2] = {0}, at = 0;
    for (int e = 0; e < 2; e++) {
        double s[3], z = 0;
        for (int c = 0; c < n[e]; c++) {
            double sum = 0;
            for (int t = 0; t < len[e][c]; t++, at++) {
                sum += lp[at];
                if (c != gold[e])
                    ul[e] -= log(1 - exp((double) lp[at]) + 0.01);
            }
            *(c == gold[e] ? &gold_tokens[e] : &wrong_tokens[e]) += len[e][c];
            if (c == gold[e])
                lm[e] = -sum;
            s[c] = sum / len[e][c];
            z += exp(s[c]);
        }
        ce[e] = log(z) - s[gold[e]];
    }
    ia3_losses l;
    if (each) {
        l.lm = (w[0] * lm[0] / gold_tokens[0] + w[1] * lm[1] / gold_tokens[1]) / 8;
        l.unlikelihood = (w[0] * ul[0] / wrong_tokens[0] + w[1] * ul[1] / wrong_tokens[1]) / 8;
        l.length_norm = (w[0] * ce[0] + w[1] * ce[1]) / 8;
    } else {
        l.lm = (w[0] * lm[0] + w[1] * lm[1]) / (gold_tokens[0] + gold_tokens[1]);
        l.unlikelihood = (w[0] * ul[0] + w[1] * ul[1]) / (wrong_tokens[0] + wrong_tokens[1]);
        l.length_norm = (w[0] * ce[0] + w[1] * ce[1]) / 2;
    }
    l.total = l.lm + l.unlikelihood + l.length_norm;
    return l;
}

static void
values_with(Ia3LossAveraging averaging, const double weights[2])
{
    fixture f;
    set_up(&f, true, weights);
    ia3_recipe r = recipe;
    r.averaging = averaging;
    float dlp[32] = {0};
    ia3_losses got = ia3_loss(f.e, 2, &r, f.lp, dlp),
               want = expected(f.lp, averaging == IA3_LOSS_EXAMPLE, weights);
    assert_near(got.lm, want.lm, 1e-12);
    assert_near(got.unlikelihood, want.unlikelihood, 1e-12);
    assert_near(got.length_norm, want.length_norm, 1e-12);
    assert_near(got.total, want.total, 1e-12);
    tear_down(&f);
}

static void
values_in(Ia3LossAveraging averaging)
{
    values_with(averaging, equal);
    values_with(averaging, unequal);
}

static void
values_over_the_batch(void **state)
{
    values_in(IA3_LOSS_BATCH);
}

static void
values_per_example(void **state)
{
    values_in(IA3_LOSS_EXAMPLE);
}

/* Each weight of a loss alone and all together, both ways of averaging, chains and tries, with and without weights of examples. */
static void
gradients_match_differences(void **state)
{
    const double weights[4][3] = {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}, {0.5, 2, 3}};
    for (int k = 0; k < 32; k++) {
        fixture f;
        set_up(&f, k & 1, k < 16 ? equal : unequal);
        ia3_recipe r = recipe;
        r.averaging = k & 2 ? IA3_LOSS_EXAMPLE : IA3_LOSS_BATCH;
        r.lm_weight = weights[k / 4 % 4][0];
        r.unlikelihood_weight = weights[k / 4 % 4][1];
        r.length_norm_weight = weights[k / 4 % 4][2];
        float dlp[32] = {0}, unused[32];
        ia3_loss(f.e, 2, &r, f.lp, dlp);
        for (int i = 0; i < f.n_pairs; i++) {
            const float h = 1e-3f, at = f.lp[i];
            f.lp[i] = at + h;
            double up = f.lp[i], above = ia3_loss(f.e, 2, &r, f.lp, unused).total;
            f.lp[i] = at - h;
            double down = f.lp[i], below = ia3_loss(f.e, 2, &r, f.lp, unused).total;
            f.lp[i] = at;
            assert_near(dlp[i], (above - below) / (up - down), 1e-5);
        }
        tear_down(&f);
    }
}

/* With a single choice the unlikelihood loss has no terms, which must not cause a division by zero. */
static void
one_choice(void **state)
{
    const int32_t a0[] = {5, EOS};
    int bad_a, bad_b;
    ia3_error err = {0};
    ia3_choices *c =
        ia3_choices_create((const int32_t *const[]){a0}, (const int[]){2}, 1, 0, &bad_a, &bad_b, &err);
    ia3_loss_question e = {.choices = c, .end = 1, .correct = 0, .weight = 1, .share = 1, .chains = true};
    float lp[2] = {-1, -3}, dlp[2] = {0};
    ia3_losses l = ia3_loss(&e, 1, &recipe, lp, dlp);
    assert_near(l.lm, 2, 1e-12);
    assert_near(l.unlikelihood, 0, 0);
    assert_near(l.length_norm, 0, 1e-12);
    ia3_choices_free(c);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_over_the_batch),
        cmocka_unit_test(values_per_example),
        cmocka_unit_test(gradients_match_differences),
        cmocka_unit_test(one_choice),
    };
    return cmocka_run_group_tests_name("loss", tests, NULL, NULL);
}
