/*
 * prompt.c
 *     Prompt tuning: TOKENS trained embeddings precede the encoder's input, stored as peft's "prompt_embeddings". In
 *     T-Few they also precede the decoder's input.
 */
#include "methods.h"

#include <stdlib.h>

#include "engine/base/rng.h"

#define TOKENS    10
#define TEXT(x)   #x
#define NUMBER(x) TEXT(x)

static void
add_tensors(ia3_layout *l, const ia3_config *config)
{
    ia3_layout_add_matrix(l, TOKENS, config->d_model, 0.0f, "prompt_embeddings");
}

/* A new prompt has the embeddings of random tokens among the 5,000 most common ones, as in T-Few. */
static bool
start(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err)
{
    const ia3_device_ops *ops = s->dev->ops;
    int vocab = s->config->vocab_size, common = vocab < 5003 ? vocab : 5003;
    int32_t ids[TOKENS], *device_ids = ops->alloc(s->dev, sizeof ids);
    float *device = ops->alloc(s->dev, l->n_values * sizeof *device);

    if (device_ids && device) {
        for (int i = 0; i < TOKENS; i++)
            ids[i] = 3 + (int32_t) ia3_draw(s->seed, IA3_STREAM_INIT, (uint64_t) i,
                                            (uint32_t) (common > 3 ? common - 3 : 1));
        ops->upload(s->dev, device_ids, ids, sizeof ids);
        ops->embed(s->dev, device, device_ids, TOKENS, s->config->d_model, s->embedding);
        ops->download(s->dev, values, device, l->n_values * sizeof *values);
    } else
        ia3_fail(err, IA3_E_MEMORY, "out of memory for the training state");
    if (device_ids)
        ops->free(s->dev, device_ids);
    if (device)
        ops->free(s->dev, device);
    return err->code == 0;
}

/* Copies the prompt; without dropout, dropout_f32 is a copy. */
static void
lead(const ia3_method_rows *r, float *x)
{
    r->dev->ops->dropout_f32(r->dev, x, r->values, r->rows, r->d_model, (ia3_dropout){0});
}

static void
lead_bwd(const ia3_method_rows *r, const float *dx, ia3_dropout drop)
{
    r->dev->ops->add_dropout(r->dev, r->grads, dx, r->rows, r->d_model, drop);
}

const ia3_method ia3_method_prompt = {
    .name = "prompt",
    .constants = (const ia3_method_constant[]){{"tokens", TOKENS}, {NULL, 0}},
    .tensors = add_tensors,
    .marks = (const char *const[]){"prompt_embeddings", NULL},
    .peft_config = "\"num_transformer_submodules\": 1, \"num_virtual_tokens\": " NUMBER(
        TOKENS) ","
                " \"peft_type\": \"PROMPT_TUNING\", \"prompt_tuning_init\": \"RANDOM\"",
    .learning_rate = 0.3,
    .start = start,
    .fixed_step = true,
    .lead_rows = TOKENS,
    .lead = lead,
    .lead_bwd = lead_bwd,
};
