/*
 * vectors.c
 *     Where the kernels find the (IA)³ vectors of a batch, and where they add to the gradients.
 *
 * The kernels multiply keys, values and the input of wo. Adapters with other targets than the standard ones need no
 * other kernels: what they lack is ones, and for a vector of q the keys are multiplied, because
 *     (q ⊙ l_q)·(k ⊙ l_k) = q·(k ⊙ l_q ⊙ l_k).
 * If an adapter has both vectors, the pass computes their product, here called twins, and after the backward pass from
 * its gradient those of the two. The vector of o is applied by a hook (methods/ia3.c). LoRA can have the standard
 * vectors, too (`vectors` in layout.h).
 */
#include "pass.h"

#include <stdlib.h>

#include "engine/base/alloc.h"

#define OPS p->m->dev->ops
#define DEV p->m->dev

enum { NONE = -1 };

/* Where the vector of a kind of linear layer begins in the values; NONE if there is none. */
static ptrdiff_t
offset_of(const ia3_layout *l, ia3_place at, ia3_kind kind)
{
    size_t offset = ia3_place_offset(l, at);
    if (!(l->kinds >> kind & 1))
        return NONE;
    for (int i = 0; ia3_part_kind(l, at.part, i) != kind; i++)
        if (l->kinds >> ia3_part_kind(l, at.part, i) & 1)
            offset += (size_t) l->inner;
    return (ptrdiff_t) offset;
}

static ptrdiff_t
own_offset(const ia3_layout *l, bool decoder, int layer, ia3_vector v)
{
    static const struct {
        ia3_part part;
        ia3_kind kind;
    } of[IA3_N_VECTORS] = {[IA3_VECTOR_K] = {IA3_PART_SELF_QKV, IA3_KIND_K},
                           [IA3_VECTOR_V] = {IA3_PART_SELF_QKV, IA3_KIND_V},
                           [IA3_VECTOR_CROSS_K] = {IA3_PART_CROSS_KV, IA3_KIND_CROSS_K},
                           [IA3_VECTOR_CROSS_V] = {IA3_PART_CROSS_KV, IA3_KIND_CROSS_V},
                           [IA3_VECTOR_FF] = {IA3_PART_FF_WO, IA3_KIND_WO}};
    return offset_of(l, (ia3_place){decoder, layer, of[v].part}, of[v].kind);
}

/* The same for the vector of the queries that the keys meet. */
static ptrdiff_t
query_offset(const ia3_layout *l, bool decoder, int layer, ia3_vector v)
{
    if (v == IA3_VECTOR_K)
        return offset_of(l, (ia3_place){decoder, layer, IA3_PART_SELF_QKV}, IA3_KIND_Q);
    if (v == IA3_VECTOR_CROSS_K)
        return offset_of(l, (ia3_place){decoder, layer, IA3_PART_CROSS_Q}, IA3_KIND_CROSS_Q);
    return NONE;
}

static bool
is_fused(const ia3_pass *p, int slot)
{
    return p->batch->layouts[slot]->variant.method->fused;
}

/* --- twins: in a slot's memory those of the encoder, of the decoder's self-attention and of cross-attention, by layer --- */

typedef struct twin_group {
    bool decoder;
    ia3_vector v;
    int layers;
    size_t at; /* [layers, inner], from there */
} twin_group;
enum { N_GROUPS = 3 };

static twin_group
group_of(const ia3_pass *p, int i)
{
    const ia3_config *c = &p->m->config;
    const size_t inner = (size_t) c->inner, enc = (size_t) c->n_enc * inner, dec = (size_t) c->n_dec * inner;
    const twin_group groups[N_GROUPS] = {{false, IA3_VECTOR_K, c->n_enc, 0},
                                         {true, IA3_VECTOR_K, c->n_dec, enc},
                                         {true, IA3_VECTOR_CROSS_K, c->n_dec, enc + dec}};
    return groups[i];
}

static size_t
twins_size(const ia3_pass *p)
{
    return (size_t) (p->m->config.n_enc + 2 * p->m->config.n_dec) * (size_t) p->m->config.inner;
}

static bool
has_twins(const ia3_pass *p, int slot)
{
    const ia3_layout *l = p->batch->layouts[slot];
    return is_fused(p, slot) && ((l->kinds >> IA3_KIND_Q & l->kinds >> IA3_KIND_K & 1) ||
                                 (l->kinds >> IA3_KIND_CROSS_Q & l->kinds >> IA3_KIND_CROSS_K & 1));
}

/* Where the twins of a slot begin: those of the slots before it precede them. */
static size_t
twins_at(const ia3_pass *p, int slot)
{
    size_t at = 0;
    for (int i = 0; i < slot; i++)
        at += has_twins(p, i) ? twins_size(p) : 0;
    return at;
}

/* How the two vectors of a group's layers lie in the values; false if the layout has not both. */
static bool
twins_of(const ia3_layout *l, const twin_group *g, ptrdiff_t *own, ptrdiff_t *query, size_t *stride)
{
    *own = own_offset(l, g->decoder, 0, g->v);
    *query = query_offset(l, g->decoder, 0, g->v);
    if (g->layers == 0 || *own == NONE || *query == NONE)
        return false;
    *stride = g->layers > 1 ? (size_t) (own_offset(l, g->decoder, 1, g->v) - *own) : 0;
    return true;
}

static void
multiply_twins(const ia3_pass *p, int slot)
{
    const float *values = p->batch->slots[slot];
    const size_t inner = (size_t) p->m->config.inner, at = twins_at(p, slot);
    for (int i = 0; i < N_GROUPS; i++) {
        const twin_group g = group_of(p, i);
        ptrdiff_t own, query;
        size_t stride;
        if (!twins_of(p->batch->layouts[slot], &g, &own, &query, &stride))
            continue;
        OPS->multiply(DEV, p->vectors.twins + at + g.at, values + own, values + query,
                      &(ia3_products){.rows = g.layers,
                                      .cols = (int) inner,
                                      .a_stride = stride,
                                      .b_stride = stride,
                                      .y_stride = inner});
    }
}

/* Each vector's gradient is that of the product times the other vector. */
static void
add_twin_gradients(const ia3_pass *p, int slot)
{
    const float *values = p->batch->slots[slot];
    float *grads = p->batch->grad_slots[slot];
    const size_t inner = (size_t) p->m->config.inner, at = twins_at(p, slot);
    for (int i = 0; i < N_GROUPS; i++) {
        const twin_group g = group_of(p, i);
        const float *d = p->vectors.twin_grads + at + g.at;
        ptrdiff_t own, query;
        size_t stride;
        if (!twins_of(p->batch->layouts[slot], &g, &own, &query, &stride))
            continue;
        const ia3_products sum = {.rows = g.layers,
                                  .cols = (int) inner,
                                  .a_stride = inner,
                                  .b_stride = stride,
                                  .y_stride = stride,
                                  .add = true};
        OPS->multiply(DEV, grads + own, d, values + query, &sum);
        OPS->multiply(DEV, grads + query, d, values + own, &sum);
    }
}

void
ia3_pass_finish_gradients(const ia3_pass *p)
{
    for (int i = 0; p->vectors.twin_grads && i < p->batch->n_slots; i++)
        if (has_twins(p, i) && p->batch->grad_slots[i])
            add_twin_gradients(p, i);
}

static void
prepare_twins(ia3_pass *p)
{
    const size_t n = twins_at(p, p->batch->n_slots);
    if (n == 0)
        return;
    p->vectors.twins = OPS->arena_alloc(DEV, n * sizeof(float));
    if (p->training) {
        p->vectors.twin_grads = OPS->arena_alloc(DEV, n * sizeof(float));
        OPS->zero(DEV, p->vectors.twin_grads, n * sizeof(float));
    }
    for (int i = 0; i < p->batch->n_slots; i++)
        if (has_twins(p, i))
            multiply_twins(p, i);
}

/* --- pointers --- */

/*
 * A vector among a slot's values, or its place among other arrays: gradients. `absent` is for places without a vector.
 */
static float *
vector_in(const ia3_pass *p, int slot, float *values, float *twins, float *absent, bool decoder, int layer,
          ia3_vector v)
{
    const ia3_layout *l = p->batch->layouts[slot];
    if (l->vectors)
        return values ? values + l->rest + own_offset(p->m->layout, decoder, layer, v) : NULL;
    if (!is_fused(p, slot))
        return absent;
    const ptrdiff_t own = own_offset(l, decoder, layer, v), query = query_offset(l, decoder, layer, v);
    if (own == NONE && query == NONE)
        return absent;
    if (own == NONE || query == NONE)
        return values ? values + (own == NONE ? query : own) : NULL;
    const twin_group g = group_of(p, !decoder ? 0 : v == IA3_VECTOR_K ? 1 : 2);
    return twins + twins_at(p, slot) + g.at + (size_t) layer * (size_t) p->m->config.inner;
}

const float *
ia3_pass_vector(const ia3_pass *p, int slot, bool decoder, int layer, ia3_vector v)
{
    return vector_in(p, slot, (float *) p->batch->slots[slot], p->vectors.twins, p->m->ones, decoder, layer,
                     v);
}

static size_t
row_of(const ia3_pass *p, bool decoder, int layer, ia3_vector v)
{
    return (size_t) (layer + (decoder ? p->m->config.n_enc : 0)) * IA3_N_VECTORS + v;
}

/* Fills table[row, slot]; in places where a layer of the encoder has no vector it is not read. */
static void
fill_table(const ia3_pass *p, float **table, float *nowhere, size_t nowhere_size)
{
    const ia3_config *c = &p->m->config;
    const int n = p->batch->n_slots;
    for (int slot = 0; slot < n; slot++)
        for (int i = 0; i < c->n_enc + c->n_dec; i++)
            for (int v = 0; v < IA3_N_VECTORS; v++) {
                const bool decoder = i >= c->n_enc;
                const int layer = decoder ? i - c->n_enc : i;
                float **to = table + row_of(p, decoder, layer, v) * (size_t) n + slot;
                if (!decoder && (v == IA3_VECTOR_CROSS_K || v == IA3_VECTOR_CROSS_V))
                    *to = NULL;
                else if (nowhere)
                    *to = vector_in(p, slot, p->batch->grad_slots[slot], p->vectors.twin_grads,
                                    nowhere + (size_t) slot * nowhere_size, decoder, layer, v);
                else
                    *to = (float *) ia3_pass_vector(p, slot, decoder, layer, v);
            }
}

static float *const *
make_table(const ia3_pass *p, bool grads)
{
    const ia3_config *c = &p->m->config;
    const size_t n = (size_t) (c->n_enc + c->n_dec) * IA3_N_VECTORS * (size_t) p->batch->n_slots;
    const size_t longest = (size_t) (c->inner > c->d_ff ? c->inner : c->d_ff);
    float **table = OPS->arena_alloc(DEV, n * sizeof *table);
    float *nowhere =
        grads ? OPS->arena_alloc(DEV, (size_t) p->batch->n_slots * longest * sizeof *nowhere) : NULL;
    float **host = ia3_alloc_array(n, sizeof *host);
    fill_table(p, host, nowhere, longest);
    OPS->upload(DEV, table, host, n * sizeof *host);
    free(host);
    return table;
}

/* The slots on the device, with ones for those without vectors. */
static const float *const *
plain_slots(const ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    const float **slots = OPS->arena_alloc(DEV, (size_t) b->n_slots * sizeof *slots);
    OPS->upload(DEV, slots, b->slots, (size_t) b->n_slots * sizeof *slots);
    for (int i = 0; b->n_others > 0 && i < b->n_slots; i++) {
        const ia3_layout *l = b->layouts[i];
        const float *vectors = l->vectors ? b->slots[i] + l->rest : p->m->ones;
        if (!is_fused(p, i))
            OPS->upload(DEV, slots + i, &vectors, sizeof *slots);
    }
    return slots;
}

/* The kernels also compute (IA)³ gradients for slots without vectors, which go to memory that is never read. */
static float *const *
plain_grads(const ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    float **slots = OPS->arena_alloc(DEV, (size_t) b->n_slots * sizeof *slots);
    OPS->upload(DEV, slots, b->grad_slots, (size_t) b->n_slots * sizeof *slots);
    for (int i = 0; b->n_others > 0 && i < b->n_slots; i++) {
        if (is_fused(p, i))
            continue;
        float *to = b->layouts[i]->vectors ? b->grad_slots[i] + b->layouts[i]->rest
                                           : OPS->arena_alloc(DEV, p->m->layout->n_values * sizeof(float));
        OPS->upload(DEV, slots + i, &to, sizeof to);
    }
    return slots;
}

void
ia3_pass_find_vectors(ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    p->vectors = (ia3_vectors){.by_place = b->n_placed > 0};
    if (b->n_slots == 0 || b->n_scaled == 0)
        return;
    if (p->vectors.by_place)
        prepare_twins(p);
    p->vectors.slots = p->vectors.by_place ? (const float *const *) make_table(p, false) : plain_slots(p);
    if (p->training)
        p->vectors.grads = p->vectors.by_place ? make_table(p, true) : plain_grads(p);
}

ia3_scale
ia3_pass_scale(const ia3_pass *p, bool decoder, int layer, ia3_vector v, const int32_t *slot_of)
{
    ia3_scale scale = {.slots = p->vectors.slots, .slot_of = slot_of};
    if (scale.slots && p->vectors.by_place)
        scale.slots += row_of(p, decoder, layer, v) * (size_t) p->batch->n_slots;
    else
        scale.offset = (size_t) own_offset(p->m->layout, decoder, layer, v);
    return scale;
}

ia3_scale_grad
ia3_pass_scale_grad(const ia3_pass *p, ia3_scale scale)
{
    ia3_scale_grad grad = {.slots = p->vectors.grads,
                           .slot_of = scale.slot_of,
                           .offset = scale.offset,
                           .n_slots = p->batch->n_slots};
    if (grad.slots && p->vectors.by_place)
        grad.slots += scale.slots - p->vectors.slots;
    return grad;
}
