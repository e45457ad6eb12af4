/*
 * test_devices.c
 *     Compares devices: results of the model on the device that IA3_TEST_DEVICE names (default "cpu") must agree with
 *     those of the CPU device in float32, for inputs of all lengths and mixed adapters.
 *
 * The golden files have only a few short inputs. Here there are large batches, with test/backbone (real weights)
 * and a small one, and a training run with dropout, whose masks must be the same on every device. The limits are those
 * of the golden tests.
 */
#include "golden_fixture.h"

#include "engine/base/rng.h"
#include "engine/recipe/score.h"
#include "engine/recipe/train.h"
#include "engine/model/methods/methods.h"

enum { ADAPTERS = 3, MAX_IDS = 220, MAX_CHOICES = 4 };
/* Sanitizers take ten times as long: lengths up to almost the longest, but fewer of each. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
enum { ROWS = 24, EXAMPLES = 8, BATCH = 4, STEPS = 2 };
#else
enum { ROWS = 48, EXAMPLES = 12, BATCH = 8, STEPS = 6 };
#endif

/* The same backbone and adapters on one device. */
typedef struct side {
    ia3_device *dev;
    ia3_model *m;
    ia3_adapter *adapters[ADAPTERS];
} side;

typedef struct pair {
    ia3_checkpoint *ck;
    side reference, tested;
    ia3_choices *sets[2]; /* of 2 and of 4 choices that share prefixes */
    int32_t ids[ROWS][MAX_IDS];
    int n_ids[ROWS];
} pair;

static void
open_side(side *s, const ia3_checkpoint *ck, const char *spec, ia3_dtype dtype, int threads)
{
    static const uint8_t digest[IA3_DIGEST_LEN] = {1};
    ia3_error err = {0};
    s->dev = ia3_device_open(spec, dtype, threads, 0, &err);
    golden_ok(s->dev, &err);
    s->m = ia3_model_load(ck, s->dev, ia3_methods, NULL, NULL, &err);
    golden_ok(s->m, &err);
    size_t n = ia3_model_layout(s->m)->n_values;
    float *values = malloc(n * sizeof *values);
    for (int k = 0; k < ADAPTERS; k++) {
        for (size_t i = 0; i < n; i++)
            values[i] =
                1.0f +
                0.4f * (float) ((double) (ia3_mix64(i * ADAPTERS + (size_t) k) >> 40) / (1 << 24) - 0.5);
        s->adapters[k] = ia3_adapter_create(s->m, ia3_model_layout(s->m), values, digest, &err);
        golden_ok(s->adapters[k], &err);
    }
    free(values);
}

static void
close_side(side *s)
{
    for (int k = 0; k < ADAPTERS; k++)
        ia3_adapter_free(s->m, s->adapters[k]);
    ia3_model_free(s->m);
    s->dev->ops->close(s->dev);
}

static ia3_choices *
make_choices(const ia3_config *c, int n)
{
    const int32_t eos = c->eos_id;
    const int32_t a[] = {11, 7, eos}, b[] = {23, eos}, d[] = {11, 7, 5, 9, eos}, e[] = {11, 40, eos};
    const int32_t *const all[] = {a, b, d, e};
    const int len[] = {3, 2, 5, 3};
    int bad_a, bad_b;
    ia3_error err = {0};
    ia3_choices *choices = ia3_choices_create(all, len, n, c->start_id, &bad_a, &bad_b, &err);
    golden_ok(choices, &err);
    return choices;
}

static pair *
open_pair(const golden_case *c)
{
    char path[512];
    ia3_error err = {0};
    pair *p = calloc(1, sizeof *p);
    const char *spec = getenv("IA3_TEST_DEVICE");
    if (strcmp(c->name, "backbone") == 0)
        snprintf(path, sizeof path, "test/backbone");
    else
        snprintf(path, sizeof path, "%s/%s", golden_root(), c->name);
    p->ck = ia3_checkpoint_open(path, &err);
    golden_ok(p->ck, &err);
    open_side(&p->reference, p->ck, "cpu", IA3_F32, 2);
    open_side(&p->tested, p->ck, spec ? spec : "cpu", c->dtype, 1);
    const ia3_config *config = ia3_checkpoint_config(p->ck);
    p->sets[0] = make_choices(config, 2);
    p->sets[1] = make_choices(config, MAX_CHOICES);
    for (int i = 0; i < ROWS; i++) {
        /* short ones, ones around powers of two, long ones */
        p->n_ids[i] = i < 8 ? 1 + i : i < 20 ? (16 << (i % 4)) - 1 + i % 3 : 2 + (i * 37) % (MAX_IDS - 1);
        for (int t = 0; t < p->n_ids[i]; t++)
            p->ids[i][t] =
                3 + (int32_t) (ia3_mix64((uint64_t) (i * 1000 + t)) % (uint64_t) (config->vocab_size - 3));
        p->ids[i][p->n_ids[i] - 1] = config->eos_id;
    }
    return p;
}

static void
close_pair(pair *p)
{
    ia3_choices_free(p->sets[0]);
    ia3_choices_free(p->sets[1]);
    close_side(&p->reference);
    close_side(&p->tested);
    ia3_checkpoint_close(p->ck);
    free(p);
}

/* Fails unless value <= limit, with the message of the golden fixture. */
static void
limit(const golden_case *c, const char *what, double value, double most)
{
    const golden named = {.name = c->name, .dtype = c->dtype};
    golden_limit(&named, what, value, most);
}

/* --- scoring --- */

static void
score_side(const pair *p, const side *s, double scores[ROWS][MAX_CHOICES])
{
    ia3_error err = {0};
    ia3_score_row rows[ROWS];
    for (int i = 0; i < ROWS; i++)
        rows[i] = (ia3_score_row){.adapter = i % (ADAPTERS + 1) ? s->adapters[i % (ADAPTERS + 1) - 1] : NULL,
                                  .ids = p->ids[i],
                                  .n_ids = p->n_ids[i],
                                  .choices = p->sets[i % 2],
                                  .scores = scores[i]};
    golden_ok(ia3_score(s->m, rows, ROWS, &err), &err);
}

static int
best_of(const double *scores, int n)
{
    int best = 0;
    for (int i = 1; i < n; i++)
        if (scores[i] > scores[best])
            best = i;
    return best;
}

/* The difference between the best and the second best of n scores. */
static double
lead_of(const double *scores, int n)
{
    int best = best_of(scores, n);
    double lead = INFINITY;
    for (int i = 0; i < n; i++)
        if (i != best)
            lead = fmin(lead, scores[best] - scores[i]);
    return lead;
}

static void
test_scoring(void **state)
{
    const golden_case *c = *state;
    pair *p = open_pair(c);
    double want[ROWS][MAX_CHOICES], got[ROWS][MAX_CHOICES], sum = 0, worst = 0;
    int n = 0, same = 0;
    score_side(p, &p->reference, want);
    score_side(p, &p->tested, got);
    for (int i = 0; i < ROWS; i++) {
        int choices = p->sets[i % 2]->n;
        for (int k = 0; k < choices; k++, n++) {
            double d = fabs(got[i][k] - want[i][k]);
            sum += d;
            worst = d <= worst ? worst : isnan(d) ? INFINITY : d;
        }
        same += best_of(got[i], choices) == best_of(want[i], choices);
        if (lead_of(want[i], choices) > (c->dtype == IA3_F32 ? 2e-4 : 0.1))
            assert_int_equal(best_of(got[i], choices), best_of(want[i], choices));
    }
    limit(c, "scores, largest error", worst, c->dtype == IA3_F32 ? 1e-4 : 0.2);
    limit(c, "scores, mean error", sum / n, c->dtype == IA3_F32 ? 1e-5 : 0.02);
    assert_true(same >= ROWS - 2);
    close_pair(p);
}

/* The same batch gives identical bits twice. */
static void
test_repeatable(void **state)
{
    pair *p = open_pair(*state);
    double first[ROWS][MAX_CHOICES] = {{0}}, second[ROWS][MAX_CHOICES] = {{0}};
    score_side(p, &p->tested, first);
    score_side(p, &p->tested, second);
    assert_memory_equal(first, second, sizeof first);
    close_pair(p);
}

/* --- training --- */

static const double LEARNING_RATE = 3e-3;

typedef struct trained {
    double losses[3]; /* of the gradient's batch */
    float *gradient, *vectors;
    size_t n;
} trained;

static void
train_side(const pair *p, const side *s, double dropout, trained *out)
{
    ia3_error err = {0};
    ia3_train_example examples[EXAMPLES];
    const int32_t *ids[EXAMPLES];
    int batch[BATCH], text[BATCH] = {0};
    for (int i = 0; i < EXAMPLES; i++) {
        int row = i * 3 + 2; /* lengths from 3 to 220 */
        ids[i] = p->ids[row];
        examples[i] = (ia3_train_example){
            .n_texts = 1, .ids = &ids[i], .n_ids = &p->n_ids[row], .choices = p->sets[i % 2], .label = i % 2};
    }
    for (int i = 0; i < BATCH; i++)
        batch[i] = i;
    ia3_recipe recipe = {.variant = ia3_variant_standard(ia3_methods[0]),
                         .steps = STEPS,
                         .batch_size = BATCH,
                         .learning_rate = LEARNING_RATE,
                         .warmup_ratio = 0.06,
                         .lm_weight = 1,
                         .unlikelihood_weight = 1,
                         .length_norm_weight = 1,
                         .dropout = dropout,
                         .seed = 7};
    ia3_train *t = ia3_train_create(s->m, examples, EXAMPLES, &recipe, NULL, &err);
    golden_ok(t, &err);
    ia3_train_report report;
    out->n = ia3_train_layout(t)->n_values;
    out->gradient = malloc(out->n * sizeof(float));
    out->vectors = malloc(out->n * sizeof(float));
    golden_ok(ia3_train_gradients(t, batch, text, BATCH, out->gradient, &report, &err), &err);
    out->losses[0] = report.lm_loss;
    out->losses[1] = report.unlikelihood_loss;
    out->losses[2] = report.length_norm_loss;
    while (!ia3_train_finished(t))
        golden_ok(ia3_train_step(&t, 1, &err), &err);
    ia3_train_values(t, out->vectors);
    ia3_train_free(t);
}

static void
compare_training(void **state, double dropout)
{
    const golden_case *c = *state;
    bool exact = c->dtype == IA3_F32;
    pair *p = open_pair(c);
    trained want, got, again;
    train_side(p, &p->reference, dropout, &want);
    train_side(p, &p->tested, dropout, &got);
    train_side(p, &p->tested, dropout, &again);
    for (int i = 0; i < 3; i++)
        limit(c, "loss", fabs(got.losses[i] - want.losses[i]) / fmax(fabs(want.losses[i]), 0.1),
              exact ? 1e-5 : 1e-2);
    if (exact)
        limit(c, "gradient", golden_relative(got.gradient, want.gradient, want.n), 1e-4);
    limit(c, "gradient, one minus cosine", 1 - golden_cosine(got.gradient, want.gradient, want.n),
          exact ? 1e-7 : 1e-2);
    /* Adafactor's first step follows the sign of the gradient: where that is near zero, a device may differ by a step */
    if (exact) {
        if (!golden_real_gpu())
            limit(c, "vectors after training, relative", golden_relative(got.vectors, want.vectors, want.n),
                  1e-4);
        limit(c, "vectors after training, mean difference", golden_mean(got.vectors, want.vectors, want.n),
              1e-6);
        limit(c, "vectors after training, largest difference", golden_max(got.vectors, want.vectors, want.n),
              LEARNING_RATE);
    } else
        limit(c, "vectors after training, relative", golden_relative(got.vectors, want.vectors, want.n),
              5e-3);
    assert_memory_equal(got.vectors, again.vectors, got.n * sizeof(float));
    free(want.gradient);
    free(want.vectors);
    free(got.gradient);
    free(got.vectors);
    free(again.gradient);
    free(again.vectors);
    close_pair(p);
}

static void
test_training(void **state)
{
    compare_training(state, 0);
}

static void
test_training_with_dropout(void **state)
{
    compare_training(state, 0.1);
}

int
main(void)
{
    static const golden_test tests[] = {
        {"devices: scores", test_scoring, true, "t5-gated-untied mt5-own-head " GOLDEN_MINI},
        {"devices: the same bits again", test_repeatable, true, "t5-gated-untied " GOLDEN_MINI},
        {"devices: training", test_training, true, "t5-gated-untied mt5-own-head " GOLDEN_MINI},
        {"devices: training with dropout", test_training_with_dropout, true, "t5-gated-untied " GOLDEN_MINI},
    };
    return golden_run("devices", tests, sizeof tests / sizeof *tests);
}
