/*
 * prompt.c
 *     Prompt tuning: trained embeddings, `prompt_length` of them, precede the encoder's input, stored as peft's "prompt_embeddings". In
 *     T-Few they also precede the decoder's input.
 */
#include "methods.h"

#include <stdlib.h>

#include "engine/base/alloc.h"
#include "engine/base/rng.h"
#include "engine/files/peft_config.h"

#define TENSOR "prompt_embeddings"

enum { LENGTH };
static const ia3_method_option options[] = {
    [LENGTH] = {.name = "prompt_length",
                .old_name = "tokens",
                .kind = IA3_OPTION_WHOLE,
                .min = 1,
                .max = 1000,
                .standard = 10,
                .before = 10},
    {.name = NULL},
};

static void
add_tensors(ia3_layout *l, const ia3_config *config)
{
    l->lead_rows = (int) ia3_option(l, LENGTH);
    ia3_layout_add_matrix(l, l->lead_rows, config->d_model, 0.0f, TENSOR);
}

static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    const ia3_st_tensor *t = ia3_safetensors_find(st, TENSOR);

    if (t && t->ndim == 2)
        v->options[LENGTH] = (double) t->shape[0];
}

/* A prompt of T5 may also precede the decoder's input (2 submodules), or be the output of an MLP. */
static bool
read_peft(const json_t *config, ia3_variant *v, ia3_error *err)
{
    double length, submodules = 1;

    if (!ia3_peft_number(config, "num_virtual_tokens", &length, err) ||
        !ia3_peft_number(config, "num_transformer_submodules", &submodules, err))
        return false;
    if (submodules != 1)
        return ia3_peft_fail(err, "\"num_transformer_submodules\" is %.15g, not 1.", submodules);
    if (length != v->options[LENGTH])
        return ia3_peft_fail(err, "\"num_virtual_tokens\" is %.15g, but the length of the prompt is %.15g.",
                             length, v->options[LENGTH]);
    return true;
}

static json_t *
peft(const ia3_variant *v)
{
    return json_pack("{s:s, s:i, s:i, s:s}", "peft_type", "PROMPT_TUNING", "num_transformer_submodules", 1,
                     "num_virtual_tokens", (int) v->options[LENGTH], "prompt_tuning_init", "RANDOM");
}

/* A new prompt has the embeddings of random tokens among the 5,000 most common ones, as in T-Few. */
static bool
start(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err)
{
    const ia3_device_ops *ops = s->dev->ops;
    int vocab = s->config->vocab_size, common = vocab < 5003 ? vocab : 5003;
    size_t bytes = (size_t) l->lead_rows * sizeof(int32_t);
    int32_t *ids = ia3_alloc(bytes), *device_ids = ops->alloc(s->dev, bytes);
    float *device = ops->alloc(s->dev, l->n_values * sizeof *device);

    if (device_ids && device) {
        for (int i = 0; i < l->lead_rows; i++)
            ids[i] = 3 + (int32_t) ia3_draw(s->seed, IA3_STREAM_INIT, (uint64_t) i,
                                            (uint32_t) (common > 3 ? common - 3 : 1));
        ops->upload(s->dev, device_ids, ids, bytes);
        ops->embed(s->dev, device, device_ids, l->lead_rows, s->config->d_model, s->embedding);
        ops->download(s->dev, values, device, l->n_values * sizeof *values);
    } else
        ia3_fail(err, IA3_E_MEMORY, "out of memory for the training state");
    free(ids);
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
    .options = options,
    .tensors = add_tensors,
    .guess = guess,
    .marks = (const char *const[]){TENSOR, NULL},
    .peft = peft,
    .peft_type = "PROMPT_TUNING",
    .read_peft = read_peft,
    .learning_rate = 0.3,
    .start = start,
    .fixed_step = true,
    .lead = lead,
    .lead_bwd = lead_bwd,
};
