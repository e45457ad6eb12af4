/*
 * weights.c
 *     Loads weights onto a device, and renews them from their masters in training.
 */
#include "weights.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/half.h"
#include "engine/base/heartbeat.h"

#define EMBEDDING "shared.weight"
#define HEAD      "lm_head.weight"
#define BIAS      "SelfAttention.relative_attention_bias.weight"

/* --- places --- */

/* N in "layer.N" of a block; that of the feed-forward is 1 in the encoder and 2 in the decoder. */
static int
sub_of(ia3_place at)
{
    return at.part <= IA3_PART_SELF_O ? 0 : at.part <= IA3_PART_CROSS_O || !at.decoder ? 1 : 2;
}

static bool
is_norm(ia3_part part)
{
    return part == IA3_PART_SELF_NORM || part == IA3_PART_CROSS_NORM || part == IA3_PART_FF_NORM;
}

/* Place number i of all that there are in layers; false if there are not so many. */
static bool
place_at(const ia3_config *c, int i, ia3_place *at)
{
    enum { ENCODER_PARTS = IA3_N_PARTS - (IA3_PART_CROSS_O - IA3_PART_CROSS_NORM + 1) };
    const int encoder = c->n_enc * ENCODER_PARTS;

    if (i >= encoder) {
        i -= encoder;
        *at = (ia3_place){true, i / IA3_N_PARTS, (ia3_part) (i % IA3_N_PARTS)};
        return at->layer < c->n_dec;
    }
    int part = i % ENCODER_PARTS;
    part += part >= IA3_PART_CROSS_NORM ? IA3_N_PARTS - ENCODER_PARTS : 0;
    *at = (ia3_place){false, i / ENCODER_PARTS, (ia3_part) part};
    return true;
}

static float **
norm_at(const ia3_weights *w, ia3_place at)
{
    if (at.part == IA3_PART_CROSS_NORM)
        return &w->dec[at.layer].cross.norm;
    if (at.part == IA3_PART_FF_NORM)
        return at.decoder ? &w->dec[at.layer].ff.norm : &w->enc[at.layer].ff.norm;
    return at.decoder ? &w->dec[at.layer].self.norm : &w->enc[at.layer].self.norm;
}

static ia3_matrix **
matrix_at(const ia3_weights *w, ia3_place at)
{
    ia3_self_attention *self = at.decoder ? &w->dec[at.layer].self : &w->enc[at.layer].self;
    ia3_ff *ff = at.decoder ? &w->dec[at.layer].ff : &w->enc[at.layer].ff;

    switch (at.part) {
    case IA3_PART_SELF_QKV:
        return &self->qkv;
    case IA3_PART_SELF_O:
        return &self->o;
    case IA3_PART_CROSS_Q:
        return &w->dec[at.layer].cross.q;
    case IA3_PART_CROSS_KV:
        return &w->dec[at.layer].cross.kv;
    case IA3_PART_CROSS_O:
        return &w->dec[at.layer].cross.o;
    case IA3_PART_FF_WI:
        return &ff->wi;
    default:
        return &ff->wo;
    }
}

/* The bias table number i, of all layers that have one of their own, with the name of its tensor; false if there are not so many. */
static bool
bias_at(const ia3_config *c, const ia3_weights *w, int i, ia3_bias **bias, char *name, size_t size)
{
    const int encoder = c->bias_every_layer ? c->n_enc : 1, decoder = c->bias_every_layer ? c->n_dec : 1;
    const bool in_decoder = i >= encoder;
    const int layer = in_decoder ? i - encoder : i;

    if (i >= encoder + decoder)
        return false;
    *bias = in_decoder ? &w->dec_bias[layer] : &w->enc_bias[layer];
    snprintf(name, size, "%s.block.%d.layer.0." BIAS, in_decoder ? "decoder" : "encoder", layer);
    return true;
}

/* --- values --- */

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

static void
to_floats(const ia3_host_tensor *t, float *to)
{
    if (t->dtype == IA3_F32 && !t->transposed) {
        memcpy(to, t->data, (size_t) t->rows * (size_t) t->cols * sizeof *to);
        return;
    }
    for (int64_t row = 0; row < t->rows; row++)
        for (int64_t col = 0; col < t->cols; col++)
            to[row * t->cols + col] = host_value(t, row, col);
}

/* A tensor of the checkpoint by its name in the layout. */
static const ia3_host_tensor *
stored(const ia3_checkpoint *ck, const char *name, ia3_error *err)
{
    const ia3_host_tensor *t = strcmp(name, EMBEDDING) == 0 ? ia3_checkpoint_embedding(ck)
                               : strcmp(name, HEAD) == 0    ? ia3_checkpoint_head(ck)
                                                            : ia3_checkpoint_tensor(ck, name);

    if (t == NULL)
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "tensor \"%s\" is missing", name);
    return t;
}

/* The state of loading, which the load_* functions share. */
typedef struct loader {
    ia3_model *m;
    ia3_weights *w;
    ia3_weight_source from;
    ia3_error *err;
    uint64_t done; /* parameters loaded so far */
} loader;

/* A tensor to be copied to the device. */
typedef struct piece {
    ia3_host_tensor t;
    const ia3_host_tensor *stored; /* that of the checkpoint, if it is used */
    float *own;                    /* malloc'd: its values with some replaced; else NULL */
} piece;

/* Finds the first of the positions that a version has values for that is not less than `position`. */
static size_t
first_kept(const ia3_layout *l, const float *values, size_t position)
{
    size_t low = 0, high = l->kept;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (ia3_kept_position(l, values, middle) < position)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Puts a version's values in their places in a tensor. */
static void
replace_some(const loader *l, const ia3_layout_entry *e, piece *p)
{
    const ia3_layout *layout = l->from.layout;
    const size_t end = e->offset + (size_t) e->len;

    for (size_t i = first_kept(layout, l->from.values, e->offset), at;
         i < layout->kept && (at = ia3_kept_position(layout, l->from.values, i)) < end; i++) {
        if (p->own == NULL) {
            p->own = ia3_alloc_array((size_t) e->len, sizeof *p->own);
            to_floats(p->stored, p->own);
            p->t = (ia3_host_tensor){p->own, IA3_F32, p->stored->rows, p->stored->cols, false};
        }
        p->own[at - e->offset] = ia3_kept_value(layout, l->from.values, i);
    }
}

static bool
find(const loader *l, const char *name, piece *p)
{
    const ia3_layout *layout = l->from.values ? l->from.layout : NULL;
    const ia3_layout_entry *e = layout ? ia3_layout_find(ia3_layout_in_passes(layout), name) : NULL;

    *p = (piece){.stored = NULL};
    if (e && layout->kept == 0) {
        p->t = (ia3_host_tensor){l->from.values + e->offset, IA3_F32, e->rows, e->cols, false};
        return true;
    }
    p->stored = stored(l->from.checkpoint, name, l->err);
    if (p->stored == NULL)
        return false;
    p->t = *p->stored;
    if (e)
        replace_some(l, e, p);
    return true;
}

static void
took(loader *l, piece *p)
{
    l->done += (uint64_t) p->t.rows * (uint64_t) p->t.cols;
    ia3_heartbeat();
    free(p->own);
    if (p->stored)
        ia3_checkpoint_release(l->from.checkpoint, p->stored);
    if (l->from.progress && l->m->parameters > 0)
        l->from.progress((double) l->done / (double) l->m->parameters, l->from.arg);
}

/* --- loading --- */

static float *
load_vector(loader *l, const char *name)
{
    piece p;
    float *v = NULL;

    if (find(l, name, &p)) {
        v = l->m->dev->ops->vector_create(l->m->dev, &p.t, l->err);
        took(l, &p);
    }
    return v;
}

static bool
load_bias(loader *l, ia3_bias *b, const char *name, bool bidirectional)
{
    piece p;

    if (!find(l, name, &p))
        return false;
    b->bidirectional = bidirectional;
    b->table = ia3_alloc_array((size_t) p.t.rows * (size_t) p.t.cols, sizeof(float));
    to_floats(&p.t, b->table);
    took(l, &p);
    return true;
}

/* Stacks the linear layers of a part into one matrix, so that a single matrix product computes them all. */
static ia3_matrix *
load_matrix(loader *l, ia3_place at, const char *prefix)
{
    const int n = ia3_part_linears(l->m->layout, at.part);
    ia3_host_tensor parts[3];
    piece pieces[3];
    ia3_matrix *w = NULL;
    int found = 0;

    for (char name[128]; found < n; found++) {
        const char *kind = ia3_kind_names[ia3_part_kind(l->m->layout, at.part, found)];

        snprintf(name, sizeof name, "%s.%s.weight", prefix, kind);
        if (!find(l, name, &pieces[found]))
            break;
        parts[found] = pieces[found].t;
    }
    if (found == n)
        w = l->m->dev->ops->matrix_create(l->m->dev, parts, n, l->err);
    for (int i = 0; i < found; i++)
        took(l, &pieces[i]);
    l->w->bytes += w ? w->bytes : 0;
    return w;
}

static bool
load_layers(loader *l)
{
    char prefix[64], name[128];
    ia3_bias *bias;
    ia3_place at;

    for (int i = 0; place_at(&l->m->config, i, &at); i++) {
        snprintf(prefix, sizeof prefix, "%s.block.%d.layer.%d", at.decoder ? "decoder" : "encoder", at.layer,
                 sub_of(at));
        if (is_norm(at.part)) {
            snprintf(name, sizeof name, "%s.layer_norm.weight", prefix);
            if (!(*norm_at(l->w, at) = load_vector(l, name)))
                return false;
        } else if (!(*matrix_at(l->w, at) = load_matrix(l, at, prefix)))
            return false;
    }
    for (int i = 0; bias_at(&l->m->config, l->w, i, &bias, name, sizeof name); i++)
        if (!load_bias(l, bias, name, name[0] == 'e'))
            return false;
    return true;
}

/* The table of embeddings and the head; even if both are the same tensor, the device has it twice. */
static bool
load_ends(loader *l)
{
    ia3_model *m = l->m;
    ia3_weights *w = l->w;
    piece embedding, head;

    if (!find(l, EMBEDDING, &embedding))
        return false;
    w->embedding = m->dev->ops->table_create(m->dev, &embedding.t, l->err);
    if (w->embedding)
        w->bytes += (uint64_t) embedding.t.rows * (uint64_t) embedding.t.cols *
                    ia3_dtype_size(ia3_device_table_dtype(m->dev));
    if (w->embedding && !m->config.own_head) {
        w->head = m->dev->ops->matrix_create(m->dev, &embedding.t, 1, l->err);
    } else if (w->embedding && find(l, HEAD, &head)) {
        w->head = m->dev->ops->matrix_create(m->dev, &head.t, 1, l->err);
        took(l, &head);
    }
    took(l, &embedding);
    if (w->head == NULL)
        return false;
    w->bytes += w->head->bytes;
    return (w->enc_norm = load_vector(l, "encoder.final_layer_norm.weight")) &&
           (w->dec_norm = load_vector(l, "decoder.final_layer_norm.weight"));
}

static void
share_biases(const ia3_config *c, ia3_weights *w)
{
    for (int i = 0; i < c->n_enc; i++)
        w->enc[i].self.bias = &w->enc_bias[c->bias_every_layer ? i : 0];
    for (int i = 0; i < c->n_dec; i++)
        w->dec[i].self.bias = &w->dec_bias[c->bias_every_layer ? i : 0];
}

ia3_weights *
ia3_weights_create(ia3_model *m, const ia3_weight_source *source, ia3_error *err)
{
    const ia3_config *c = &m->config;
    ia3_weights *w = ia3_alloc(sizeof *w);

    w->enc = ia3_alloc_array((size_t) c->n_enc, sizeof *w->enc);
    w->dec = ia3_alloc_array((size_t) c->n_dec, sizeof *w->dec);
    w->enc_bias = ia3_alloc_array((size_t) c->n_enc, sizeof *w->enc_bias);
    w->dec_bias = ia3_alloc_array((size_t) c->n_dec, sizeof *w->dec_bias);
    share_biases(c, w);

    loader l = {.m = m, .w = w, .from = *source, .err = err};

    if (load_ends(&l) && load_layers(&l))
        return w;
    ia3_weights_free(m, w);
    return NULL;
}

bool
ia3_weights_read(const ia3_checkpoint *ck, const ia3_layout *layout, float *values, ia3_error *err)
{
    for (int i = 0; i < layout->n; i++) {
        const ia3_layout_entry *e = &layout->entries[i];
        const ia3_host_tensor *t = stored(ck, e->name, err);

        if (t == NULL)
            return false;
        to_floats(t, values + e->offset);
        ia3_checkpoint_release(ck, t);
        ia3_heartbeat();
    }
    return ia3_checkpoint_unchanged(ck, err);
}

/* --- the weights as a whole --- */

/* Calls visit for every matrix that there is until it returns false. */
static bool
each_matrix(ia3_model *m, const ia3_weights *w, bool (*visit)(ia3_model *m, ia3_matrix *x, ia3_error *err),
            ia3_error *err)
{
    bool ok = !w->head || visit(m, w->head, err);
    ia3_place at;

    for (int i = 0; ok && place_at(&m->config, i, &at); i++)
        if (!is_norm(at.part) && *matrix_at(w, at))
            ok = visit(m, *matrix_at(w, at), err);
    return ok;
}

static bool
visit_free(ia3_model *m, ia3_matrix *x, ia3_error *err)
{
    (void) err;
    m->dev->ops->matrix_free(m->dev, x);
    return true;
}

static bool
visit_prepare(ia3_model *m, ia3_matrix *x, ia3_error *err)
{
    ia3_heartbeat();
    return m->dev->ops->matrix_prepare_backward(m->dev, x, err);
}

static bool
visit_release(ia3_model *m, ia3_matrix *x, ia3_error *err)
{
    (void) err;
    m->dev->ops->matrix_release_backward(m->dev, x);
    return true;
}

static void
free_device(ia3_model *m, void *p)
{
    if (p)
        m->dev->ops->free(m->dev, p);
}

static void
free_biases(ia3_model *m, ia3_bias *biases, int n)
{
    for (int i = 0; i < n; i++) {
        free(biases[i].table);
        free_device(m, biases[i].expanded);
        free_device(m, biases[i].bucket_of);
    }
    free(biases);
}

void
ia3_weights_free(ia3_model *m, ia3_weights *w)
{
    ia3_place at;

    if (w == NULL)
        return;
    each_matrix(m, w, visit_free, NULL);
    for (int i = 0; place_at(&m->config, i, &at); i++)
        if (is_norm(at.part))
            free_device(m, *norm_at(w, at));
    free_device(m, w->embedding);
    free_device(m, w->enc_norm);
    free_device(m, w->dec_norm);
    free_biases(m, w->enc_bias, m->config.n_enc);
    free_biases(m, w->dec_bias, m->config.n_dec);
    free(w->enc);
    free(w->dec);
    free(w);
}

bool
ia3_weights_prepare_backward(ia3_model *m, ia3_weights *w, ia3_error *err)
{
    if (each_matrix(m, w, visit_prepare, err))
        return true;
    ia3_weights_release_backward(m, w);
    return false;
}

void
ia3_weights_release_backward(ia3_model *m, ia3_weights *w)
{
    each_matrix(m, w, visit_release, NULL);
}

static size_t
offset_of(const ia3_layout *layout, const char *name)
{
    return ia3_layout_find(layout, name)->offset;
}

void
ia3_weights_update(ia3_model *m, ia3_weights *w, const ia3_layout *layout, const float *masters)
{
    const ia3_device_ops *ops = m->dev->ops;
    const ia3_config *c = &m->config;
    const size_t norm_bytes = (size_t) c->d_model * sizeof(float);
    const float *embedding = masters + offset_of(layout, EMBEDDING);
    const ia3_place encoder = {false, c->n_enc, IA3_PART_SELF_NORM},
                    decoder = {true, c->n_dec, IA3_PART_SELF_NORM};
    ia3_bias *bias;
    ia3_place at;
    char name[128];

    ops->table_update(m->dev, w->embedding, embedding, (size_t) c->vocab_size * (size_t) c->d_model);
    ops->matrix_update(m->dev, w->head, c->own_head ? masters + offset_of(layout, HEAD) : embedding);
    ops->copy(m->dev, w->enc_norm, masters + ia3_place_offset(layout, encoder), norm_bytes);
    ops->copy(m->dev, w->dec_norm, masters + ia3_place_offset(layout, decoder), norm_bytes);
    for (int i = 0; place_at(c, i, &at); i++) {
        const float *from = masters + ia3_place_offset(layout, at);

        if (is_norm(at.part))
            ops->copy(m->dev, *norm_at(w, at), from, norm_bytes);
        else
            ops->matrix_update(m->dev, *matrix_at(w, at), from);
    }
    for (int i = 0; bias_at(c, w, i, &bias, name, sizeof name); i++) {
        bias->master = masters + offset_of(layout, name);
        if (bias->bucket_of)
            ops->bias_expand(m->dev, bias->expanded, bias->master, bias->bucket_of, c->n_heads, bias->span);
    }
}

uint64_t
ia3_weights_estimate(const ia3_model *m, bool training)
{
    /* the weights for the backward pass are about as large again */
    return m->weights->bytes * (training ? 2 : 1);
}
