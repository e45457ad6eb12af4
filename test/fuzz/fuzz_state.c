/*
 * fuzz_state.c
 *     Fuzzes saved training states. A training run that accepts one must come to its end.
 *
 * The four parts of the header that must be right (the magic number, the format, the fingerprint and the number of
 * values) are put in place if the first byte is odd. The state begins at the second.
 */
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "engine/model/methods/methods.h"
#include "engine/recipe/train.h"

#define CHECKPOINT "test/golden/t5-relu-tied"
#define N_EXAMPLES 6

enum { EOS = 1, MAGIC_TO_FINGERPRINT = 20, N_VALUES_AT = 40, VALUES_AT = 44 };

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static ia3_model *model;
static ia3_choices *choices;
static int32_t texts[N_EXAMPLES][3];
static const int32_t *text_list[N_EXAMPLES];
static const int text_len = 3;
static ia3_train_example examples[N_EXAMPLES];
static uint8_t *valid;
static size_t valid_len;

static ia3_train *
create(void)
{
    const ia3_recipe recipe = {.variant = ia3_variant_standard(ia3_methods[0]),
                               .steps = 4,
                               .batch_size = 2,
                               .learning_rate = 3e-3,
                               .warmup_ratio = 0.06,
                               .lm_weight = 1,
                               .unlikelihood_weight = 1,
                               .length_norm_weight = 1,
                               .seed = 42};
    ia3_error err = {0};
    ia3_train *t = ia3_train_create(model, examples, N_EXAMPLES, &recipe, NULL, &err);
    if (t == NULL)
        abort();
    return t;
}

static void
step(ia3_train *t)
{
    ia3_error err = {0};
    if (!ia3_train_step(&t, 1, &err))
        abort();
}

static void
set_up(void)
{
    ia3_error err = {0};
    const int32_t yes[] = {5, 6, EOS}, no[] = {7, EOS};
    int a, b;
    ia3_checkpoint *ck = ia3_checkpoint_open(CHECKPOINT, &err);
    ia3_device *dev = ia3_device_open("cpu", IA3_F32, 1, 0, &err);
    if (ck == NULL || dev == NULL || !(model = ia3_model_load(ck, dev, ia3_methods, NULL, NULL, &err)))
        abort();
    ia3_checkpoint_close(ck);
    choices = ia3_choices_create((const int32_t *const[]){yes, no}, (const int[]){3, 2}, 2, 0, &a, &b, &err);
    for (int i = 0; i < N_EXAMPLES; i++) {
        memcpy(texts[i], (const int32_t[]){10 + i, 20, EOS}, sizeof texts[i]);
        text_list[i] = texts[i];
        examples[i] = (ia3_train_example){
            .n_texts = 1, .ids = &text_list[i], .n_ids = &text_len, .choices = choices, .label = i % 2};
    }
    ia3_train *t = create();
    step(t);
    valid = ia3_train_save(t, &valid_len, &err);
    ia3_train_free(t);
}

static void
resume(const uint8_t *state, size_t len)
{
    ia3_error err = {0};
    ia3_train *t = create();
    if (ia3_train_restore(t, state, len, &err)) {
        int steps = 0;
        for (; !ia3_train_finished(t); steps++)
            step(t);
        if (steps > 4)
            abort();
    } else if (err.code != IA3_E_INVALID)
        abort();
    ia3_train_free(t);
}

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (model == NULL)
        set_up();
    if (size == 0)
        return 0;
    size_t len = size - 1;
    uint8_t *state = malloc(valid_len + len + 1);
    memcpy(state, data + 1, len);
    if (data[0] & 1 && len >= VALUES_AT) {
        memcpy(state, valid, MAGIC_TO_FINGERPRINT);
        memcpy(state + N_VALUES_AT, valid + N_VALUES_AT, VALUES_AT - N_VALUES_AT);
        /* the values, as far as there are none */
        if (len < valid_len && data[0] & 2) {
            memcpy(state + len, valid + len, valid_len - len);
            len = valid_len;
        }
    }
    state = realloc(state, len ? len : 1);
    resume(state, len);
    free(state);
    return 0;
}
