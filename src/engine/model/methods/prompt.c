/*
 * prompt.c
 *     Prompt tuning: trained embeddings, `prompt_length` of them, precede the encoder's input, and, if `decoder` is on, as
 *     in T-Few, others the decoder's, stored as peft's "prompt_embeddings", those of the decoder last.
 */
#include "methods.h"

#include <stdlib.h>

#include "engine/base/alloc.h"
#include "engine/base/rng.h"
#include "engine/files/peft_config.h"

#define TENSOR "prompt_embeddings"

enum { LENGTH, DECODER };
static const ia3_method_option options[] = {
    [LENGTH] = {.name = "prompt_length",
                .old_name = "tokens",
                .kind = IA3_OPTION_WHOLE,
                .min = 1,
                .max = 1000,
                .standard = 10,
                .before = 10},
    [DECODER] = {.name = "decoder", .kind = IA3_OPTION_FLAG, .hidden = true, .standard = 1, .before = 0},
    {.name = NULL},
};

static void
add_tensors(ia3_layout *l, const ia3_config *config)
{
    l->lead_rows = (int) ia3_option(l, LENGTH);
    l->dec_lead_rows = ia3_option(l, DECODER) != 0 ? l->lead_rows : 0;
    ia3_layout_add_matrix(l, l->lead_rows + l->dec_lead_rows, config->d_model, 0.0f, TENSOR);
}

/* Half of the rows may be for the decoder, which the shape does not tell. */
static void
guess(const ia3_safetensors *st, ia3_variant *v)
{
    const ia3_st_tensor *t = ia3_safetensors_find(st, TENSOR);

    if (t == NULL || t->ndim != 2)
        return;
    v->options[DECODER] = v->options[DECODER] != 0 && t->shape[0] % 2 == 0;
    v->options[LENGTH] = (double) t->shape[0] / (1 + v->options[DECODER]);
}

static bool
read_peft(const json_t *config, ia3_variant *v, ia3_error *err)
{
    double length, submodules, rows = v->options[LENGTH] * (1 + v->options[DECODER]);

    if (!ia3_peft_number(config, "num_virtual_tokens", &length, err) ||
        !ia3_peft_number(config, "num_transformer_submodules", &submodules, err))
        return false;
    if (submodules != 1)
        return ia3_peft_fail(
            err,
            "\"num_transformer_submodules\" is %.15g, not 1: there are embeddings that PEFT does not use.",
            submodules);
    if (length != rows)
        return ia3_peft_fail(err, "\"num_virtual_tokens\" is %.15g, but there are %.15g embeddings.", length,
                             rows);
    v->options[LENGTH] = length;
    v->options[DECODER] = 0;
    return true;
}

/* Whatever its configuration says, PEFT puts prompts before the encoder's input only. */
static json_t *
peft(const ia3_variant *v)
{
    if (v->options[DECODER] != 0)
        return NULL;
    return json_pack("{s:s, s:i, s:i, s:s}", "peft_type", "PROMPT_TUNING", "num_transformer_submodules",
                     v->options[DECODER] != 0 ? 2 : 1, "num_virtual_tokens", (int) v->options[LENGTH],
                     "prompt_tuning_init", "RANDOM");
}

/* A new prompt has the embeddings of random tokens among the 5,000 most common ones, as in T-Few. */
static bool
start(const ia3_layout *l, const ia3_start *s, float *values, ia3_error *err)
{
    const ia3_device_ops *ops = s->dev->ops;
    int vocab = s->config->vocab_size, common = vocab < 5003 ? vocab : 5003;
    const int rows = l->lead_rows + l->dec_lead_rows;
    size_t bytes = (size_t) rows * sizeof(int32_t);
    int32_t *ids = ia3_alloc(bytes), *device_ids = ops->alloc(s->dev, bytes);
    float *device = ops->alloc(s->dev, l->n_values * sizeof *device);

    if (device_ids && device) {
        for (int i = 0; i < rows; i++)
            ids[i] = 3 + (int32_t) ia3_draw(s->seed, IA3_STREAM_INIT, (uint64_t) i,
                                            (uint32_t) (common > 3 ? common - 3 : 1));
        ops->upload(s->dev, device_ids, ids, bytes);
        ops->embed(s->dev, device, device_ids, rows, s->config->d_model, s->embedding);
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
    .steps = 1000,
    .start = start,
    .fixed_step = true,
};
