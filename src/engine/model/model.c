/*
 * model.c
 *     Loads a checkpoint onto a device, and manages the weights and adapters there.
 */
#include "engine/base/alloc.h"
#include "engine/base/heartbeat.h"
#include "pass.h"
#include "weights.h"

#include <stdlib.h>
#include <string.h>

/* Whether the device supports state_attention in every layer. */
static bool
fits_states(const ia3_model *m)
{
    const ia3_device_ops *ops = m->dev->ops;
    bool fits = ops->state_attention != NULL;
    for (int i = 0; fits && i < m->config.n_dec; i++)
        fits =
            ops->state_attention_fits(m->dev, m->weights->dec[i].cross.kv, m->config.n_heads, m->config.d_kv);
    return fits;
}

static bool
create_ones(ia3_model *m, ia3_error *err)
{
    size_t n = m->layout->n_values;
    float *host = ia3_alloc_array(n, sizeof(float));
    for (size_t i = 0; i < n; i++)
        host[i] = 1.0f;
    m->ones = m->dev->ops->alloc(m->dev, n * sizeof(float));
    if (m->ones)
        m->dev->ops->upload(m->dev, m->ones, host, n * sizeof(float));
    free(host);
    return m->ones || ia3_fail(err, IA3_E_MEMORY, "out of memory while loading the backbone");
}

/* Counts the parameters of the graph; shared tensors count once. */
static uint64_t
count_parameters(const ia3_config *c)
{
    uint64_t d = c->d_model, attention = 4 * d * c->inner, ff = d * c->d_ff * (c->gated ? 3 : 2);
    uint64_t n = d * c->vocab_size * (c->own_head ? 2 : 1) + 2 * d;
    n += c->n_enc * (attention + ff + 2 * d) + c->n_dec * (2 * attention + ff + 3 * d);
    uint64_t tables = c->bias_every_layer ? (uint64_t) c->n_enc + c->n_dec : 2;
    return n + tables * c->n_buckets * c->n_heads;
}

static bool
check_device(const ia3_config *c, const ia3_device *dev, ia3_error *err)
{
    if (dev->max_d_kv == 0 || c->d_kv <= dev->max_d_kv)
        return true;
    ia3_fail(err, IA3_E_UNSUPPORTED, "device \"%s\" does not support attention heads of size %d", dev->name,
             c->d_kv);
    ia3_fail_detail(err, "The checkpoint's \"d_kv\" must not exceed %d on this device.", dev->max_d_kv);
    return ia3_fail_hint(err, "Use this backbone on the CPU.");
}

static void
create_layouts(ia3_model *m, const ia3_method *const *methods)
{
    m->layouts = ia3_layouts_create(&m->config, methods);
    for (int i = 0; methods[i]; i++)
        if (methods[i]->fused)
            m->layout = ia3_layouts_standard(m->layouts, i);
}

ia3_model *
ia3_model_load(const ia3_checkpoint *ck, ia3_device *dev, const ia3_method *const *methods,
               void (*progress)(double fraction, void *arg), void *arg, ia3_error *err)
{
    if (!check_device(ia3_checkpoint_config(ck), dev, err))
        return NULL;
    ia3_model *m = ia3_alloc(sizeof *m);
    m->config = *ia3_checkpoint_config(ck);
    m->dev = dev;
    create_layouts(m, methods);
    m->enc_saved = ia3_alloc_array(m->config.n_enc, sizeof *m->enc_saved);
    m->dec_saved = ia3_alloc_array(m->config.n_dec, sizeof *m->dec_saved);
    m->logit_scale = m->config.scale_logits ? (float) (1.0 / __builtin_sqrt(m->config.d_model)) : 1.0f;
    m->parameters = count_parameters(&m->config);

    const ia3_weight_source source = {.checkpoint = ck, .progress = progress, .arg = arg};
    m->weights = ia3_weights_create(m, &source, err);
    if (!m->weights || !create_ones(m, err)) {
        ia3_model_free(m);
        return NULL;
    }
    m->few_by_states = fits_states(m);
    return m;
}

void
ia3_model_free(ia3_model *m)
{
    if (!m)
        return;
    ia3_weights_free(m, m->weights);
    if (m->ones)
        m->dev->ops->free(m->dev, m->ones);
    free(m->enc_saved);
    free(m->dec_saved);
    ia3_layouts_free(m->layouts);
    free(m);
}

bool
ia3_model_may_train(const ia3_model *m, ia3_error *err)
{
    if (m->dev->weights != IA3_INT8)
        return true;
    ia3_fail(err, IA3_E_UNSUPPORTED, "cannot train on a backbone in int8");
    ia3_fail_detail(err, "Weights in int8 can only be used for prediction.");
    return ia3_fail_hint(
        err, "List the backbone a second time in ia3.backbones, with :bfloat16, train there, and then "
             "UPDATE ia3.task SET backbone to predict with this one.");
}

bool
ia3_model_retain_backward(ia3_model *m, ia3_error *err)
{
    if (!ia3_model_may_train(m, err))
        return false;
    if (m->backward_users == 0 && !ia3_weights_prepare_backward(m, m->weights, err))
        return false;
    m->backward_users++;
    return true;
}

void
ia3_model_release_backward(ia3_model *m)
{
    if (--m->backward_users == 0)
        ia3_weights_release_backward(m, m->weights);
}

/* What a jump out of a pass means; setjmp's own 0 is none of them. Devices jump with the first. */
enum { LEFT_WITHOUT_MEMORY = 1, LEFT_ABANDONED = 2 };

bool
ia3_model_guarded(ia3_model *m, void (*pass)(void *arg), void *arg, ia3_error *err)
{
    ia3_device *dev = m->dev;
    size_t mark = dev->ops->arena_mark(dev);
    jmp_buf *outer = dev->oom; /* of the pass that gives way to this one */
    jmp_buf env;
    int left = setjmp(env);
    if (left == 0) {
        dev->oom = &env;
        pass(arg);
    }
    dev->oom = outer;
    dev->ops->arena_release(dev, mark);
    if (left == LEFT_WITHOUT_MEMORY) {
        ia3_fail(err, IA3_E_MEMORY, "out of memory in the engine");
        ia3_fail_hint(err, "Use shorter inputs, a smaller batch, or raise ia3.memory_limit.");
    } else if (left == LEFT_ABANDONED)
        ia3_fail(err, IA3_E_CANCELLED, "request was cancelled");
    return left == 0;
}

void
ia3_model_give_way(const ia3_model *m)
{
    ia3_heartbeat();
    if (m->give_way.fn && !m->give_way.fn(m->give_way.arg))
        longjmp(*m->dev->oom, LEFT_ABANDONED);
}

void
ia3_model_set_tokenizer(ia3_model *m, const ia3_tokenizer *tok)
{
    m->tokenizer = tok;
}

void
ia3_model_set_checkpoint(ia3_model *m, const ia3_checkpoint *ck)
{
    m->checkpoint = ck;
}

ia3_give_way
ia3_model_set_give_way(ia3_model *m, ia3_give_way way)
{
    ia3_give_way before = m->give_way;
    m->give_way = way;
    return before;
}

double
ia3_model_attention_cost(const ia3_model *m)
{
    const ia3_config *c = &m->config;
    double matrices = 4.0 * c->d_model * c->inner + (c->gated ? 3.0 : 2.0) * c->d_model * c->d_ff;
    return 2 * (2.0 * c->inner) / matrices;
}

const ia3_config *
ia3_model_config(const ia3_model *m)
{
    return &m->config;
}

const ia3_method *const *
ia3_model_methods(const ia3_model *m)
{
    return ia3_layouts_methods(m->layouts);
}

const ia3_layout *
ia3_model_layout(const ia3_model *m)
{
    return m->layout;
}

ia3_layouts *
ia3_model_layouts(const ia3_model *m)
{
    return m->layouts;
}

ia3_device *
ia3_model_device(const ia3_model *m)
{
    return m->dev;
}

uint64_t
ia3_model_parameters(const ia3_model *m)
{
    return m->parameters;
}

uint64_t
ia3_model_bytes(const ia3_model *m)
{
    return m->weights->bytes;
}

void
ia3_model_set_trace(ia3_model *m, ia3_trace_fn fn, void *arg)
{
    m->trace = fn;
    m->trace_arg = arg;
}

bool
ia3_model_has_method(const ia3_model *m, const ia3_method *method, ia3_error *err)
{
    if (method->runs_on == NULL || method->runs_on(m->dev->ops))
        return true;
    ia3_fail(err, IA3_E_INVALID, "device \"%s\" does not support the method \"%s\"", m->dev->name,
             method->name);
    return ia3_fail_hint(err, "Use the method \"%s\", or a backbone on the CPU.",
                         m->layout->variant.method->name);
}

/* The values that passes use, malloc'd, of an adapter whose layout, or its members', has an expansion. */
static float *
expand(const ia3_layout *layout, const float *values)
{
    const ia3_layout *one = layout->member ? layout->member : layout;
    const ia3_expansion *e = one->variant.method->expansion;
    const size_t n = one->expanded->n_values;
    float *expanded = ia3_alloc_array((size_t) layout->members * n, sizeof *expanded);
    void *prepared = e->prepare(one);
    for (size_t i = 0; i < (size_t) layout->members; i++)
        e->expand(one, prepared, values + i * one->n_values, expanded + i * n);
    e->release(prepared);
    return expanded;
}

/* The values of an adapter, or of all members of an ensemble, on the device. */
static bool
upload(ia3_model *m, ia3_adapter *a, const ia3_layout *one, const float *values, ia3_error *err)
{
    const size_t n = ia3_layout_in_passes(one)->n_values;
    a->bytes = (size_t) a->layout->members * n * sizeof(float);
    a->values = m->dev->ops->alloc(m->dev, a->bytes);
    if (!a->values)
        return ia3_fail(err, IA3_E_MEMORY, "out of memory for an adapter of %zu bytes", a->bytes);
    float *expanded = one->expanded ? expand(a->layout, values) : NULL;
    m->dev->ops->upload(m->dev, a->values, expanded ? expanded : values, a->bytes);
    free(expanded);
    for (int i = 0; a->members && i < a->layout->members; i++)
        a->members[i].values = a->values + (size_t) i * n;
    return true;
}

/* Weights of its own for each member. */
static bool
create_weights(ia3_model *m, ia3_adapter *a, const ia3_layout *one, const float *values, ia3_error *err)
{
    if (!m->checkpoint && one->kept > 0)
        return ia3_fail(err, IA3_E_INTERNAL, "the backbone's checkpoint is not open");
    for (int i = 0; i < a->layout->members; i++) {
        const ia3_weight_source source = {
            .checkpoint = m->checkpoint, .layout = one, .values = values + (size_t) i * one->n_values};
        ia3_weights *w = ia3_weights_create(m, &source, err);
        if (!w) {
            if (err->code == IA3_E_MEMORY)
                ia3_fail_detail(err, "A version of the method \"%s\" has weights of its own, of %zu MB.",
                                one->variant.method->name, (size_t) (m->weights->bytes >> 20));
            return false;
        }
        *(a->members ? &a->members[i].weights : &a->weights) = w;
        a->bytes += w->bytes;
    }
    return one->kept == 0 || ia3_checkpoint_unchanged(m->checkpoint, err);
}

ia3_adapter *
ia3_adapter_create(ia3_model *m, const ia3_layout *layout, const float *values,
                   const uint8_t digest[IA3_DIGEST_LEN], ia3_error *err)
{
    if (!ia3_model_has_method(m, layout->variant.method, err))
        return NULL;
    const ia3_layout *one = layout->member ? layout->member : layout;
    ia3_adapter *a = ia3_alloc(sizeof *a);
    memcpy(a->digest, digest, IA3_DIGEST_LEN);
    a->layout = ia3_layout_retain(layout);
    if (layout->member) {
        a->members = ia3_alloc_array((size_t) layout->members, sizeof *a->members);
        for (int i = 0; i < layout->members; i++) {
            a->members[i] = *a;
            a->members[i].layout = layout->member;
            a->members[i].members = NULL;
        }
    }
    if (ia3_layout_replaces(layout) ? create_weights(m, a, one, values, err) : upload(m, a, one, values, err))
        return a;
    ia3_adapter_free(m, a);
    return NULL;
}

void
ia3_adapter_free(ia3_model *m, ia3_adapter *a)
{
    if (!a)
        return;
    if (a->values)
        m->dev->ops->free(m->dev, a->values);
    ia3_weights_free(m, a->weights);
    for (int i = 0; a->members && i < a->layout->members; i++)
        ia3_weights_free(m, a->members[i].weights);
    ia3_layout_release(a->layout);
    free(a->members);
    free(a);
}
