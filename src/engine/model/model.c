/*
 * model.c
 *     Loads a checkpoint onto a device, and manages the weights and adapters there.
 */
#include "engine/base/alloc.h"
#include "engine/base/half.h"
#include "engine/base/heartbeat.h"
#include "pass.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The state of loading, which the load_* functions share. */
typedef struct loader {
    ia3_model *m;
    const ia3_checkpoint *ck;
    ia3_error *err;
    void (*progress)(double fraction, void *arg);
    void *arg;
    uint64_t done; /* parameters loaded so far */
} loader;

static const ia3_host_tensor *
find(loader *l, const char *prefix, const char *name)
{
    char full[192];
    snprintf(full, sizeof full, "%s%s", prefix, name);
    const ia3_host_tensor *t = ia3_checkpoint_tensor(l->ck, full);
    if (!t)
        ia3_fail(l->err, IA3_E_BAD_CHECKPOINT, "tensor \"%s\" is missing", full);
    return t;
}

static void
took(loader *l, const ia3_host_tensor *t)
{
    l->done += (uint64_t) t->rows * t->cols;
    ia3_checkpoint_release(l->ck, t);
    if (l->progress && l->m->parameters > 0)
        l->progress((double) l->done / (double) l->m->parameters, l->arg);
}

static float *
load_vector(loader *l, const char *prefix, const char *name)
{
    const ia3_host_tensor *t = find(l, prefix, name);
    if (!t)
        return NULL;
    float *v = l->m->dev->ops->vector_create(l->m->dev, t, l->err);
    if (v)
        took(l, t);
    return v;
}

/* Stacks up to three tensors of the same width into one matrix, so that a single matrix product computes them all. */
static ia3_matrix *
load_matrix(loader *l, const char *prefix, int n, ...)
{
    ia3_host_tensor parts[3];
    const ia3_host_tensor *sources[3];
    va_list names;
    va_start(names, n);
    bool found = true;
    for (int i = 0; i < n && found; i++) {
        sources[i] = find(l, prefix, va_arg(names, const char *));
        found = sources[i] != NULL;
        if (found)
            parts[i] = *sources[i];
    }
    va_end(names);
    if (!found)
        return NULL;
    ia3_matrix *w = l->m->dev->ops->matrix_create(l->m->dev, parts, n, l->err);
    if (!w)
        return NULL;
    l->m->bytes += w->bytes;
    for (int i = 0; i < n; i++)
        took(l, sources[i]);
    return w;
}

static float
host_value(const ia3_host_tensor *t, int64_t row, int64_t col)
{
    int64_t i = t->transposed ? col * t->rows + row : row * t->cols + col;
    double d;
    float f;
    uint16_t h;
    if (t->dtype == IA3_F64) {
        memcpy(&d, (const char *) t->data + i * 8, 8);
        return (float) d;
    }
    if (t->dtype == IA3_F32) {
        memcpy(&f, (const char *) t->data + i * 4, 4);
        return f;
    }
    memcpy(&h, (const char *) t->data + i * 2, 2);
    return t->dtype == IA3_BF16 ? ia3_bf16_to_f32(h) : ia3_f16_to_f32(h);
}

static bool
load_bias(loader *l, ia3_bias *b, const char *prefix, bool bidirectional)
{
    const ia3_host_tensor *t = find(l, prefix, "SelfAttention.relative_attention_bias.weight");
    if (!t)
        return false;
    b->bidirectional = bidirectional;
    b->table = ia3_alloc_array((size_t) t->rows * t->cols, sizeof(float));
    for (int64_t row = 0; row < t->rows; row++)
        for (int64_t col = 0; col < t->cols; col++)
            b->table[row * t->cols + col] = host_value(t, row, col);
    took(l, t);
    return true;
}

static bool
load_self(loader *l, ia3_self_attention *a, ia3_bias *biases, int layer, const char *prefix,
          bool bidirectional)
{
    bool own = layer == 0 || l->m->config.bias_every_layer;
    a->bias = own ? &biases[layer] : &biases[0];
    return (!own || load_bias(l, a->bias, prefix, bidirectional)) &&
           (a->norm = load_vector(l, prefix, "layer_norm.weight")) &&
           (a->qkv = load_matrix(l, prefix, 3, "SelfAttention.q.weight", "SelfAttention.k.weight",
                                 "SelfAttention.v.weight")) &&
           (a->o = load_matrix(l, prefix, 1, "SelfAttention.o.weight"));
}

static bool
load_cross(loader *l, ia3_cross_attention *a, const char *prefix)
{
    return (a->norm = load_vector(l, prefix, "layer_norm.weight")) &&
           (a->q = load_matrix(l, prefix, 1, "EncDecAttention.q.weight")) &&
           (a->kv = load_matrix(l, prefix, 2, "EncDecAttention.k.weight", "EncDecAttention.v.weight")) &&
           (a->o = load_matrix(l, prefix, 1, "EncDecAttention.o.weight"));
}

static bool
load_ff(loader *l, ia3_ff *f, const char *prefix)
{
    f->norm = load_vector(l, prefix, "layer_norm.weight");
    if (!f->norm)
        return false;
    if (l->m->config.gated)
        f->wi = load_matrix(l, prefix, 2, "DenseReluDense.wi_0.weight", "DenseReluDense.wi_1.weight");
    else
        f->wi = load_matrix(l, prefix, 1, "DenseReluDense.wi.weight");
    return f->wi && (f->wo = load_matrix(l, prefix, 1, "DenseReluDense.wo.weight"));
}

static bool
load_layers(loader *l)
{
    ia3_model *m = l->m;
    char prefix[96];
    for (int i = 0; i < m->config.n_enc; i++) {
        snprintf(prefix, sizeof prefix, "encoder.block.%d.layer.0.", i);
        if (!load_self(l, &m->enc[i].self, m->enc_bias, i, prefix, true))
            return false;
        snprintf(prefix, sizeof prefix, "encoder.block.%d.layer.1.", i);
        if (!load_ff(l, &m->enc[i].ff, prefix))
            return false;
    }
    for (int i = 0; i < m->config.n_dec; i++) {
        snprintf(prefix, sizeof prefix, "decoder.block.%d.layer.0.", i);
        if (!load_self(l, &m->dec[i].self, m->dec_bias, i, prefix, false))
            return false;
        snprintf(prefix, sizeof prefix, "decoder.block.%d.layer.1.", i);
        if (!load_cross(l, &m->dec[i].cross, prefix))
            return false;
        snprintf(prefix, sizeof prefix, "decoder.block.%d.layer.2.", i);
        if (!load_ff(l, &m->dec[i].ff, prefix))
            return false;
    }
    return true;
}

/* Whether the device supports state_attention in every layer. */
static bool
fits_states(const ia3_model *m)
{
    const ia3_device_ops *ops = m->dev->ops;
    bool fits = ops->state_attention != NULL;
    for (int i = 0; fits && i < m->config.n_dec; i++)
        fits = ops->state_attention_fits(m->dev, m->dec[i].cross.kv, m->config.n_heads, m->config.d_kv);
    return fits;
}

static bool
load_ends(loader *l)
{
    ia3_model *m = l->m;
    const ia3_host_tensor *embedding = ia3_checkpoint_embedding(l->ck), *head = ia3_checkpoint_head(l->ck);
    m->embedding = m->dev->ops->table_create(m->dev, embedding, l->err);
    if (!m->embedding)
        return false;
    m->bytes += (uint64_t) embedding->rows * embedding->cols * ia3_dtype_size(ia3_device_table_dtype(m->dev));
    m->head = m->dev->ops->matrix_create(m->dev, head, 1, l->err);
    if (!m->head)
        return false;
    m->bytes += m->head->bytes;
    took(l, embedding);
    if (head != embedding)
        took(l, head);
    return (m->enc_norm = load_vector(l, "", "encoder.final_layer_norm.weight")) &&
           (m->dec_norm = load_vector(l, "", "decoder.final_layer_norm.weight"));
}

static bool
create_ones(loader *l)
{
    ia3_model *m = l->m;
    size_t n = m->layout->n_values;
    float *host = ia3_alloc_array(n, sizeof(float));
    for (size_t i = 0; i < n; i++)
        host[i] = 1.0f;
    m->ones = m->dev->ops->alloc(m->dev, n * sizeof(float));
    if (m->ones)
        m->dev->ops->upload(m->dev, m->ones, host, n * sizeof(float));
    free(host);
    return m->ones || ia3_fail(l->err, IA3_E_MEMORY, "out of memory while loading the backbone");
}

/* Counts the parameters of the graph; shared tensors count once. */
static uint64_t
count_parameters(const ia3_config *c, bool own_head)
{
    uint64_t d = c->d_model, attention = 4 * d * c->inner, ff = d * c->d_ff * (c->gated ? 3 : 2);
    uint64_t n = d * c->vocab_size * (own_head ? 2 : 1) + 2 * d;
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
    m->enc = ia3_alloc_array(m->config.n_enc, sizeof *m->enc);
    m->dec = ia3_alloc_array(m->config.n_dec, sizeof *m->dec);
    m->enc_saved = ia3_alloc_array(m->config.n_enc, sizeof *m->enc_saved);
    m->dec_saved = ia3_alloc_array(m->config.n_dec, sizeof *m->dec_saved);
    m->enc_bias = ia3_alloc_array(m->config.n_enc, sizeof *m->enc_bias);
    m->dec_bias = ia3_alloc_array(m->config.n_dec, sizeof *m->dec_bias);
    m->logit_scale = m->config.scale_logits ? (float) (1.0 / __builtin_sqrt(m->config.d_model)) : 1.0f;
    m->parameters = count_parameters(&m->config, ia3_checkpoint_head(ck) != ia3_checkpoint_embedding(ck));

    loader l = {.m = m, .ck = ck, .err = err, .progress = progress, .arg = arg};
    if (!load_ends(&l) || !load_layers(&l) || !create_ones(&l)) {
        ia3_model_free(m);
        return NULL;
    }
    m->few_by_states = fits_states(m);
    return m;
}

/* Calls visit for every matrix until it returns false. */
static bool
each_matrix(ia3_model *m, bool (*visit)(ia3_model *m, ia3_matrix *w, ia3_error *err), ia3_error *err)
{
    bool ok = !m->head || visit(m, m->head, err);
    for (int i = 0; ok && m->enc && i < m->config.n_enc; i++) {
        ia3_matrix *all[] = {m->enc[i].self.qkv, m->enc[i].self.o, m->enc[i].ff.wi, m->enc[i].ff.wo};
        for (int k = 0; ok && k < 4; k++)
            ok = !all[k] || visit(m, all[k], err);
    }
    for (int i = 0; ok && m->dec && i < m->config.n_dec; i++) {
        ia3_dec_layer *d = &m->dec[i];
        ia3_matrix *all[] = {d->self.qkv, d->self.o, d->cross.q, d->cross.kv, d->cross.o, d->ff.wi, d->ff.wo};
        for (int k = 0; ok && k < 7; k++)
            ok = !all[k] || visit(m, all[k], err);
    }
    return ok;
}

static bool
visit_free(ia3_model *m, ia3_matrix *w, ia3_error *err)
{
    m->dev->ops->matrix_free(m->dev, w);
    return true;
}

static bool
visit_prepare(ia3_model *m, ia3_matrix *w, ia3_error *err)
{
    ia3_heartbeat();
    return m->dev->ops->matrix_prepare_backward(m->dev, w, err);
}

static bool
visit_release(ia3_model *m, ia3_matrix *w, ia3_error *err)
{
    m->dev->ops->matrix_release_backward(m->dev, w);
    return true;
}

static void
free_device(ia3_model *m, void *p)
{
    if (p)
        m->dev->ops->free(m->dev, p);
}

static void
free_bias(ia3_model *m, ia3_bias *b)
{
    free(b->table);
    free_device(m, b->expanded);
}

void
ia3_model_free(ia3_model *m)
{
    if (!m)
        return;
    each_matrix(m, visit_free, NULL);
    for (int i = 0; i < m->config.n_enc; i++) {
        free_device(m, m->enc[i].self.norm);
        free_device(m, m->enc[i].ff.norm);
        free_bias(m, &m->enc_bias[i]);
    }
    for (int i = 0; i < m->config.n_dec; i++) {
        free_device(m, m->dec[i].self.norm);
        free_device(m, m->dec[i].cross.norm);
        free_device(m, m->dec[i].ff.norm);
        free_bias(m, &m->dec_bias[i]);
    }
    free_device(m, m->embedding);
    free_device(m, m->enc_norm);
    free_device(m, m->dec_norm);
    free_device(m, m->ones);
    free(m->enc);
    free(m->dec);
    free(m->enc_saved);
    free(m->dec_saved);
    free(m->enc_bias);
    free(m->dec_bias);
    ia3_layouts_free(m->layouts);
    free(m);
}

bool
ia3_model_retain_backward(ia3_model *m, ia3_error *err)
{
    if (m->dev->weights == IA3_INT8) {
        ia3_fail(err, IA3_E_UNSUPPORTED, "cannot train on a backbone in int8");
        ia3_fail_detail(err, "Weights in int8 can only be used for prediction.");
        return ia3_fail_hint(
            err, "List the backbone a second time in ia3.backbones, with :bfloat16, train there, and then "
                 "UPDATE ia3.task SET backbone to predict with this one.");
    }
    if (m->backward_users == 0 && !each_matrix(m, visit_prepare, err)) {
        each_matrix(m, visit_release, NULL);
        return false;
    }
    m->backward_users++;
    return true;
}

void
ia3_model_release_backward(ia3_model *m)
{
    if (--m->backward_users == 0)
        each_matrix(m, visit_release, NULL);
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
    return m->bytes;
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

ia3_adapter *
ia3_adapter_create(ia3_model *m, const ia3_layout *layout, const float *values,
                   const uint8_t digest[IA3_DIGEST_LEN], ia3_error *err)
{
    if (!ia3_model_has_method(m, layout->variant.method, err))
        return NULL;
    const ia3_layout *one = layout->member ? layout->member : layout;
    const size_t n = ia3_layout_in_passes(one)->n_values,
                 bytes = (size_t) layout->members * n * sizeof(float);
    float *device = m->dev->ops->alloc(m->dev, bytes);
    if (!device) {
        ia3_fail(err, IA3_E_MEMORY, "out of memory for an adapter of %zu bytes", bytes);
        return NULL;
    }
    float *expanded = one->expanded ? expand(layout, values) : NULL;
    m->dev->ops->upload(m->dev, device, expanded ? expanded : values, bytes);
    free(expanded);
    ia3_adapter *a = ia3_alloc(sizeof *a);
    memcpy(a->digest, digest, IA3_DIGEST_LEN);
    a->layout = ia3_layout_retain(layout);
    a->values = device;
    a->bytes = bytes;
    if (layout->member) {
        a->members = ia3_alloc_array((size_t) layout->members, sizeof *a->members);
        for (int i = 0; i < layout->members; i++) {
            a->members[i] = *a;
            a->members[i].layout = layout->member;
            a->members[i].values = device + (size_t) i * n;
            a->members[i].members = NULL;
        }
    }
    return a;
}

void
ia3_adapter_free(ia3_model *m, ia3_adapter *a)
{
    if (!a)
        return;
    m->dev->ops->free(m->dev, a->values);
    ia3_layout_release(a->layout);
    free(a->members);
    free(a);
}
