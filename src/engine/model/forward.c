/*
 * forward.c
 *     T5's forward pass over packed rows, with (IA)³ (docs/engine.md §1.2, §2).
 *
 * Pre-norm blocks over an fp32 residual stream x:
 *     x += drop(Attn(norm x)); decoder: x += drop(Cross(norm x, enc)); x += drop(FF(norm x))
 * then the final norm and dropout. The cross-attention keys and values of an input are computed once per layer,
 * whatever the number of choices; inputs with few decoder rows may do without them (ia3_score_by_states).
 */
#include "pass.h"

#include <limits.h>
#include <stdlib.h>

#include "engine/base/alloc.h"

#define OPS p->m->dev->ops
#define DEV p->m->dev

static void *
room(const ia3_pass *p, size_t rows, size_t cols, size_t size)
{
    return OPS->arena_alloc(DEV, rows * cols * size);
}

static void *
act_room(const ia3_pass *p, size_t rows, size_t cols)
{
    return room(p, rows, cols, ia3_dtype_size(DEV->dtype));
}

static const void *
to_device(const ia3_pass *p, const void *host, size_t n, size_t size)
{
    if (!host)
        return NULL;
    void *device = OPS->arena_alloc(DEV, n * size);
    OPS->upload(DEV, device, host, n * size);
    return device;
}

static const int32_t *
ints_to_device(const ia3_pass *p, const ia3_ints *a)
{
    return to_device(p, a->v, a->n, sizeof *a->v);
}

/* Allocates the buffers that all layers share. Buffers that training keeps for each layer are allocated there. */
static void
prepare_stack(ia3_pass *p, ia3_stack *s, bool decoder)
{
    const ia3_batch *b = p->batch;
    size_t d = p->m->config.d_model;
    s->decoder = decoder;
    s->n_layers = decoder ? p->m->config.n_dec : p->m->config.n_enc;
    s->rows = decoder ? b->dec_ids.n : b->enc_ids.n;
    s->max_rows = decoder ? b->max_dec : b->max_input;
    s->ids = ints_to_device(p, decoder ? &b->dec_ids : &b->enc_ids);
    s->offsets = ints_to_device(p, decoder ? &b->dec_offsets : &b->enc_offsets);
    s->slot_of_row = ints_to_device(p, decoder ? &b->dec_slots : &b->enc_slots);
    s->segments = decoder ? &b->dec_segments : &b->enc_segments;
    s->keys = to_device(p, decoder ? b->dec_keys : b->enc_keys, s->rows, sizeof(uint64_t));
    s->x = room(p, s->rows, d, sizeof(float));
    s->y = ia3_pass_drops(p) ? room(p, s->rows, d, sizeof(float)) : NULL;
    s->late = false;
    s->normed = act_room(p, s->rows, d);
    s->out = act_room(p, s->rows, d);
    ia3_pass_find_leads(p, s);
    s->saved = NULL;
    s->final_rstd = NULL;
    if (p->training) {
        s->saved = decoder ? p->m->dec_saved : p->m->enc_saved;
        s->final_rstd = room(p, s->rows, 1, sizeof(float));
    }
}

static void
prepare_decoder(ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    for (int i = 0; i < p->m->config.n_dec; i++)
        ia3_bias_cover(p->m, p->w->dec[i].self.bias, b->max_depth);
    prepare_stack(p, &p->dec, true);
    p->parent = ints_to_device(p, &b->dec_parent);
    p->depth = ints_to_device(p, &b->dec_depth);
    p->pair_offsets = ints_to_device(p, &b->pair_offsets);
    p->pair_tokens = ints_to_device(p, &b->pair_tokens);
    p->lp = room(p, b->pair_tokens.n, 1, sizeof(float));
    p->lse = room(p, p->dec.rows, 1, sizeof(float));
}

static void
prepare(ia3_pass *p)
{
    const ia3_batch *b = p->batch;
    for (int i = 0; i < p->m->config.n_enc; i++)
        ia3_bias_cover(p->m, p->w->enc[i].self.bias, b->max_input);
    prepare_stack(p, &p->enc, false);
    p->slot_of_input = ints_to_device(p, &b->slot_of_input);
    ia3_pass_find_vectors(p);
    prepare_decoder(p);
}

/* The last product of the sub-layer that the part belongs to. */
static ia3_part
last_part(ia3_part part)
{
    return part <= IA3_PART_SELF_O    ? IA3_PART_SELF_O
           : part <= IA3_PART_CROSS_O ? IA3_PART_CROSS_O
                                      : IA3_PART_FF_WO;
}

/* Where training keeps the result of the sub-layer that the part belongs to. */
static float **
saved_result(const ia3_stack *s, int layer, ia3_part part)
{
    ia3_saved_layer *saved = &s->saved[layer];
    return part <= IA3_PART_SELF_O    ? &saved->self.y
           : part <= IA3_PART_CROSS_O ? &saved->cross.y
                                      : &saved->ff.y;
}

/*
 * Whether results are added to the residual stream by the norm after them. The sum is then written to new memory, so what
 * training keeps of the stream needs no copy.
 */
static bool
adds_late(const ia3_pass *p)
{
    return OPS->add_norm != NULL && ia3_pass_drops(p) && !p->m->trace;
}

static void
norm_stream(const ia3_pass *p, ia3_stack *s, void *out, float *rstd, const float *norm)
{
    int d = p->m->config.d_model;
    if (!s->late) {
        OPS->rmsnorm(DEV, out, rstd, s->x, norm, s->rows, d, p->m->config.eps);
        return;
    }
    float *sum = room(p, s->rows, d, sizeof(float));
    OPS->add_norm(DEV, out, rstd, sum, s->x, s->y, s->late_drop, norm, s->rows, d, p->m->config.eps);
    s->x = sum;
    s->late = false;
}

void
ia3_sublayer_enter(ia3_pass *p, ia3_stack *s, int layer, ia3_part part, const float *norm, float **saved_x,
                   float **saved_rstd)
{
    int d = p->m->config.d_model;
    float *rstd = NULL;
    if (p->training) {
        *saved_rstd = rstd = room(p, s->rows, 1, sizeof(float));
        if (!adds_late(p)) {
            *saved_x = room(p, s->rows, d, sizeof(float));
            OPS->dropout_f32(DEV, *saved_x, s->x, s->rows, d, (ia3_dropout){0});
        }
        *saved_result(s, layer, part) =
            ia3_pass_changes_outputs(p, s, last_part(part)) ? room(p, s->rows, d, sizeof(float)) : NULL;
    }
    norm_stream(p, s, s->normed, rstd, norm);
    if (adds_late(p))
        *saved_x = s->x;
    ia3_pass_norm(p, s, (ia3_place){s->decoder, layer, part}, s->normed);
}

/*
 * The norm and the first product of a sub-layer at once, with the activation if `gated` is not NULL. Returns false if that
 * is impossible: training keeps what is between them, and methods' hooks change it.
 */
static bool
enter_with_product(const ia3_pass *p, const ia3_stack *s, void *y, const float *norm, ia3_matrix *w,
                   const ia3_gated *gated)
{
    return !p->training && s->segments->n == 0 && OPS->norm_matmul != NULL &&
           OPS->norm_matmul(DEV, y, s->x, norm, p->m->config.eps, s->rows, w, gated);
}

void
ia3_sublayer_leave(ia3_pass *p, ia3_stack *s, const void *a, ia3_matrix *w, int layer, ia3_site site)
{
    ia3_part part = site == IA3_SITE_SELF_OUT    ? IA3_PART_SELF_O
                    : site == IA3_SITE_CROSS_OUT ? IA3_PART_CROSS_O
                                                 : IA3_PART_FF_WO;
    ia3_place at = {s->decoder, layer, part};
    float *keep = p->training ? *saved_result(s, layer, part) : NULL;
    if (!ia3_pass_drops(p)) {
        ia3_pass_add_product(p, s, at, a, w, keep);
        return;
    }
    ia3_pass_product(p, s, at, s->y, a, w, IA3_OUT_F32);
    ia3_pass_output(p, s, at, s->y, keep);
    s->late_drop = ia3_pass_dropout(p, s, layer, site);
    if (adds_late(p))
        s->late = true;
    else
        OPS->add_dropout(DEV, s->x, s->y, s->rows, p->m->config.d_model, s->late_drop);
}

/*
 * Queries of a long input that are attended to at once, before other work gets a turn: as many as the device attends to in one
 * turn, a multiple of LEAST_SLICE, which is what the CPU's kernels compute at a time.
 */
enum { SLICE = 528, LEAST_SLICE = 48 };

static int32_t
slice_of(const ia3_pass *p, int32_t length)
{
    int64_t per_query = 2 * (int64_t) p->m->config.inner * (length > 0 ? length : 1);
    int64_t slice = DEV->turn / per_query / LEAST_SLICE * LEAST_SLICE;
    return slice > SLICE ? SLICE : slice < LEAST_SLICE ? LEAST_SLICE : (int32_t) slice;
}

/* Successive inputs, which go through a layer of the encoder together; `row` is the first one's first row. */
typedef struct input_group {
    int first, n, row;
} input_group;

/*
 * Rows of the encoder that go through a layer together: as many as stay in the device's caches while they do. Training keeps
 * what belongs to all rows, methods' hooks know rows by their place in the batch, and traces show whole arrays.
 */
static int
rows_in_group(const ia3_pass *p, const ia3_stack *s)
{
    size_t row = 3 * (size_t) p->m->config.inner * ia3_dtype_size(DEV->dtype), rows = DEV->cache / row;
    if (p->training || s->segments->n > 0 || p->m->trace || DEV->cache == 0 || rows > INT_MAX)
        return s->rows;
    return rows > 0 ? (int) rows : 1;
}

/* The stack reduced to the rows of the group's inputs. */
static ia3_stack
rows_of_group(const ia3_pass *p, const ia3_stack *s, const input_group *in)
{
    ia3_stack g = *s;
    g.rows = p->batch->enc_offsets.v[in->first + in->n] - in->row;
    g.x += (size_t) in->row * (size_t) p->m->config.d_model;
    g.slot_of_row += in->row;
    return g;
}

/* The group that begins with input `first`, of the first n inputs; groups are of similar size. */
static input_group
group_from(const ia3_pass *p, const ia3_stack *s, int first, int n)
{
    const int32_t *offsets = p->batch->enc_offsets.v;
    const int groups = s->rows / rows_in_group(p, s) > 1 ? s->rows / rows_in_group(p, s) : 1;
    const int each = (s->rows + groups - 1) / groups;
    input_group in = {.first = first, .row = offsets[first]};
    while (first + in.n < n && (groups == 1 || offsets[first + in.n] - in.row < each))
        in.n++;
    return in;
}

/* Where the group's inputs begin, on the device, counted from the group's first row. */
static const int32_t *
offsets_in_group(const ia3_pass *p, const input_group *in)
{
    const int32_t *offsets = p->batch->enc_offsets.v + in->first;
    if (in->row == 0)
        return p->enc.offsets + in->first;
    int32_t *device = OPS->arena_alloc(DEV, ((size_t) in->n + 1) * sizeof *device);
    int32_t *host = ia3_alloc_array((size_t) in->n + 1, sizeof *host);
    for (int i = 0; i <= in->n; i++)
        host[i] = offsets[i] - in->row;
    OPS->upload(DEV, device, host, ((size_t) in->n + 1) * sizeof *host);
    free(host);
    return device;
}

/* Restricts attention over all inputs to those of the group, whose keys and values begin at row 0. */
static void
attend_in_group(const ia3_pass *p, const input_group *in, ia3_attention *a)
{
    a->n_seq = in->n;
    a->k_offsets = offsets_in_group(p, in);
    a->scale_k.slot_of += in->first;
    a->scale_v.slot_of += in->first;
}

/*
 * Self-attention of long inputs in slices of their queries. What is computed for a query does not depend on the slice it is
 * in. Queries count from the beginning of the slice, so the table of biases is shifted by that.
 */
static void
attend_in_slices(ia3_pass *p, const ia3_stack *s, const input_group *in, int layer,
                 const ia3_saved_attention *w)
{
    const int32_t *offsets = p->batch->enc_offsets.v;
    size_t inner = p->m->config.inner, size = ia3_dtype_size(DEV->dtype), row_bytes = 3 * inner * size;
    for (int i = in->first; i < in->first + in->n; i++) {
        size_t first = (size_t) (offsets[i] - in->row);
        int32_t length = offsets[i + 1] - offsets[i], slice = slice_of(p, length);
        for (int32_t at = 0; at < length; at += slice) {
            int32_t n = length - at < slice ? length - at : slice;
            size_t mark = OPS->arena_mark(DEV), row = first + (size_t) at;
            ia3_attention a;
            ia3_pass_self_attention(p, s, layer, w, &a);
            a.n_seq = 1;
            a.q_offsets = to_device(p, (int32_t[2]){0, n}, 2, sizeof(int32_t));
            a.k_offsets = to_device(p, (int32_t[2]){0, length}, 2, sizeof(int32_t));
            a.max_q = n;
            a.max_k = length;
            a.q = (const char *) a.q + row * row_bytes;
            a.k = (const char *) a.k + first * row_bytes;
            a.v = (const char *) a.v + first * row_bytes;
            a.bias = a.bias ? a.bias - at : NULL;
            a.scale_k.slot_of += i;
            a.scale_v.slot_of += i;
            a.out = (char *) a.out + row * inner * size;
            OPS->attention(DEV, &a);
            OPS->arena_release(DEV, mark);
            ia3_model_give_way(p->m);
        }
    }
}

/*
 * Each sub-layer allocates its buffers in the arena and releases them, unless the backward pass needs them.
 */
static void
self_attention(ia3_pass *p, ia3_stack *s, const input_group *in, int layer)
{
    const ia3_self_attention *w = s->decoder ? &p->w->dec[layer].self : &p->w->enc[layer].self;
    int inner = p->m->config.inner;
    ia3_saved_attention scratch = {0}, *keep = p->training ? &s->saved[layer].self : &scratch;
    size_t mark = OPS->arena_mark(DEV);
    keep->q = act_room(p, s->rows, 3 * (size_t) inner);
    keep->kv = NULL;
    keep->out = act_room(p, s->rows, inner);
    keep->lse = p->training ? room(p, s->rows, p->m->config.n_heads, sizeof(float)) : NULL;
    if (!enter_with_product(p, s, keep->q, w->norm, w->qkv, NULL)) {
        ia3_place at = {s->decoder, layer, IA3_PART_SELF_QKV};
        ia3_sublayer_enter(p, s, layer, IA3_PART_SELF_NORM, w->norm, &keep->x, &keep->rstd);
        ia3_pass_product(p, s, at, keep->q, s->normed, w->qkv, IA3_OUT_ACT);
    }
    if (!p->training && !s->decoder && s->max_rows > 2 * SLICE)
        attend_in_slices(p, s, in, layer, keep);
    else {
        ia3_attention a;
        ia3_pass_self_attention(p, s, layer, keep, &a);
        if (!s->decoder) {
            attend_in_group(p, in, &a);
            a.q_offsets = a.k_offsets;
        }
        OPS->attention(DEV, &a);
    }
    ia3_sublayer_leave(p, s, keep->out, w->o, layer, IA3_SITE_SELF_OUT);
    if (!p->training)
        OPS->arena_release(DEV, mark);
}

/* Cross-attention of the first n inputs over keys and values, which exist for one group of inputs at a time. */
static void
attend_keys(ia3_pass *p, int layer, int n, ia3_saved_attention *keep)
{
    const size_t row_bytes = (size_t) p->m->config.d_model * ia3_dtype_size(DEV->dtype);
    input_group in = {0};
    do {
        in = group_from(p, &p->enc, in.first + in.n, n);
        const ia3_stack s = rows_of_group(p, &p->enc, &in);
        size_t mark = OPS->arena_mark(DEV);
        keep->kv = act_room(p, s.rows, 2 * (size_t) p->m->config.inner);
        ia3_pass_product(p, &s, (ia3_place){true, layer, IA3_PART_CROSS_KV}, keep->kv,
                         (const char *) p->enc.out + (size_t) in.row * row_bytes, p->w->dec[layer].cross.kv,
                         IA3_OUT_ACT);
        if (p->m->trace)
            ia3_trace_cross(p, layer, keep->kv);
        ia3_attention a;
        ia3_pass_cross_attention(p, layer, keep, &a);
        attend_in_group(p, &in, &a);
        a.q_offsets += in.first;
        OPS->attention(DEV, &a);
        if (!p->training)
            OPS->arena_release(DEV, mark);
    } while (in.first + in.n < n);
}

/* Cross-attention of the inputs from n on directly over the encoder's output. */
static void
attend_states(ia3_pass *p, int layer, int n, const ia3_saved_attention *keep)
{
    ia3_attention a;
    ia3_pass_cross_attention(p, layer, keep, &a);
    a.n_seq -= n;
    a.q_offsets += n;
    a.k_offsets += n;
    a.scale_k.slot_of += n;
    a.scale_v.slot_of += n;
    OPS->state_attention(DEV, &a, p->enc.out, p->w->dec[layer].cross.kv);
}

static void
cross_attention(ia3_pass *p, int layer)
{
    const ia3_cross_attention *w = &p->w->dec[layer].cross;
    ia3_stack *s = &p->dec;
    int inner = p->m->config.inner, n = p->batch->n_inputs - p->batch->n_by_states;
    ia3_saved_attention scratch = {0}, *keep = p->training ? &s->saved[layer].cross : &scratch;
    size_t mark = OPS->arena_mark(DEV);
    keep->q = act_room(p, s->rows, inner);
    keep->out = act_room(p, s->rows, inner);
    keep->lse = p->training ? room(p, s->rows, p->m->config.n_heads, sizeof(float)) : NULL;
    if (!enter_with_product(p, s, keep->q, w->norm, w->q, NULL)) {
        ia3_place at = {true, layer, IA3_PART_CROSS_Q};
        ia3_sublayer_enter(p, s, layer, IA3_PART_CROSS_NORM, w->norm, &keep->x, &keep->rstd);
        ia3_pass_product(p, s, at, keep->q, s->normed, w->q, IA3_OUT_ACT);
    }
    if (n > 0)
        attend_keys(p, layer, n, keep);
    if (n < p->batch->n_inputs)
        attend_states(p, layer, n, keep);
    ia3_sublayer_leave(p, s, keep->out, w->o, layer, IA3_SITE_CROSS_OUT);
    if (!p->training)
        OPS->arena_release(DEV, mark);
}

static void
feed_forward(ia3_pass *p, ia3_stack *s, int layer)
{
    const ia3_ff *w = s->decoder ? &p->w->dec[layer].ff : &p->w->enc[layer].ff;
    ia3_saved_ff scratch = {0}, *keep = p->training ? &s->saved[layer].ff : &scratch;
    size_t mark = OPS->arena_mark(DEV);
    ia3_gated g;
    ia3_pass_gated(p, s, layer, &g);
    void *h = p->training ? NULL : act_room(p, s->rows, p->m->config.d_ff);
    size_t hidden_mark = mark;
    if (p->training || !enter_with_product(p, s, h, w->norm, w->wi, &g)) {
        ia3_place at = {s->decoder, layer, IA3_PART_FF_WI};
        ia3_sublayer_enter(p, s, layer, IA3_PART_FF_NORM, w->norm, &keep->x, &keep->rstd);
        keep->g = act_room(p, s->rows, w->wi->out);
        hidden_mark = OPS->arena_mark(DEV);
        h = h ? h : act_room(p, s->rows, p->m->config.d_ff);
        ia3_pass_product(p, s, at, keep->g, s->normed, w->wi, IA3_OUT_ACT);
        OPS->gated_act(DEV, h, keep->g, s->rows, &g);
    }
    ia3_sublayer_leave(p, s, h, w->wo, layer, IA3_SITE_FF_OUT);
    OPS->arena_release(DEV, p->training ? hidden_mark : mark);
}

/* In slices of rows, unless something needs them all (see rows_in_group). */
void
ia3_sublayer_feed_forward(ia3_pass *p, ia3_stack *s, int layer)
{
    bool whole = p->training || s->segments->n > 0 || p->m->trace || DEV->ff_rows == 0;
    for (int at = 0, n; at < s->rows; at += n) {
        ia3_stack slice = *s;
        n = slice.rows = whole || s->rows - at < DEV->ff_rows ? s->rows - at : DEV->ff_rows;
        slice.x += (size_t) at * (size_t) p->m->config.d_model;
        slice.slot_of_row += at;
        feed_forward(p, &slice, layer);
        if (whole)
            *s = slice;
    }
}

static void
begin_stack(ia3_pass *p, ia3_stack *s)
{
    int d = p->m->config.d_model;
    OPS->embed(DEV, s->x, s->ids, s->rows, d, p->w->embedding);
    ia3_pass_lead(p, s, s->x);
    if (ia3_pass_drops(p))
        OPS->dropout_f32(DEV, s->x, s->x, s->rows, d, ia3_pass_dropout(p, s, 0, IA3_SITE_INPUT));
}

static void
end_stack(ia3_pass *p, ia3_stack *s, const float *norm)
{
    int d = p->m->config.d_model;
    norm_stream(p, s, s->out, s->final_rstd, norm);
    ia3_pass_norm(p, s, (ia3_place){s->decoder, s->n_layers, IA3_PART_SELF_NORM}, s->out);
    if (ia3_pass_drops(p))
        OPS->dropout_act(DEV, s->out, s->out, s->rows, d, ia3_pass_dropout(p, s, 0, IA3_SITE_OUTPUT));
    if (p->m->trace)
        ia3_trace_act(p, s->decoder ? "decoder.out" : "encoder.out", -1, s->out, s->rows, d);
}

static void
encoder_layer(ia3_pass *p, int layer)
{
    input_group in = {0};
    do {
        in = group_from(p, &p->enc, in.first + in.n, p->batch->n_inputs);
        ia3_stack s = rows_of_group(p, &p->enc, &in);
        ia3_model_give_way(p->m);
        self_attention(p, &s, &in, layer);
        ia3_model_give_way(p->m);
        ia3_sublayer_feed_forward(p, &s, layer);
        if (p->training) /* the group is everything */
            p->enc = s;
    } while (in.first + in.n < p->batch->n_inputs);
}

void
ia3_pass_encode(ia3_pass *p, ia3_model *m, const ia3_batch *batch, bool training)
{
    *p = (ia3_pass){
        .m = m, .batch = batch, .w = batch->weights ? batch->weights : m->weights, .training = training};
    prepare(p);
    begin_stack(p, &p->enc);
    for (int i = 0; i < m->config.n_enc; i++) {
        encoder_layer(p, i);
        if (m->trace)
            ia3_trace_f32(p, "encoder.block", i, p->enc.x, p->enc.rows, m->config.d_model);
    }
    end_stack(p, &p->enc, p->w->enc_norm);
}

/*
 * Log-probabilities of the pairs, in slices of decoder rows between which other work gets a turn. What is computed for a
 * row does not depend on the slice it is in. A slice is so many rows that the weights, which are read for each of them, are
 * used often enough.
 */
static void
log_likelihoods(ia3_pass *p)
{
    const ia3_model *m = p->m;
    enum { LEAST_ROWS = 256 };
    const int64_t multiplications = (int64_t) 1 << 31;
    int64_t slice =
        multiplications / ((int64_t) m->config.vocab_size * m->config.d_model) / LEAST_ROWS * LEAST_ROWS;
    slice = slice < LEAST_ROWS ? LEAST_ROWS : slice;
    size_t row_bytes = (size_t) m->config.d_model * ia3_dtype_size(DEV->dtype);
    for (int64_t at = 0; at < p->dec.rows; at += slice) {
        int64_t n = p->dec.rows - at < slice ? p->dec.rows - at : slice;
        ia3_model_give_way(m);
        OPS->vocab_logprobs(DEV, p->lp, p->lse + at, (const char *) p->dec.out + (size_t) at * row_bytes,
                            (int) n, p->w->head, m->logit_scale, p->pair_offsets + at, p->pair_tokens);
    }
}

static void
decode(ia3_pass *p, float *lp)
{
    ia3_model *m = p->m;
    begin_stack(p, &p->dec);
    for (int i = 0; i < m->config.n_dec; i++) {
        ia3_model_give_way(m);
        self_attention(p, &p->dec, NULL, i);
        ia3_model_give_way(m);
        cross_attention(p, i);
        ia3_model_give_way(m);
        ia3_sublayer_feed_forward(p, &p->dec, i);
        if (m->trace)
            ia3_trace_f32(p, "decoder.block", i, p->dec.x, p->dec.rows, m->config.d_model);
    }
    end_stack(p, &p->dec, p->w->dec_norm);

    log_likelihoods(p);
    OPS->download(DEV, lp, p->lp, (size_t) p->batch->pair_tokens.n * sizeof(float));
}

void
ia3_pass_forward(ia3_pass *p, ia3_model *m, const ia3_batch *batch, bool training, float *lp)
{
    ia3_pass_encode(p, m, batch, training);
    decode(p, lp);
}

void
ia3_pass_decode_more(ia3_pass *p, const ia3_batch *batch, float *lp)
{
    size_t mark = OPS->arena_mark(DEV);
    p->batch = batch;
    p->enc.segments = &batch->enc_segments;
    prepare_decoder(p);
    decode(p, lp);
    OPS->arena_release(DEV, mark);
}
