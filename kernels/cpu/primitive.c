/*
 * primitive.c
 *     Creates, caches and runs oneDNN's matrix products, and packs weights for them.
 *
 * Threads: the thread that calls a kernel (or loads weights) creates shapes and products; after that they are only
 * read. Each thread has its own memory objects for a product; the weights are shared.
 */
#include "bgemm.h"
#include "engine/base/alloc.h"
#include "fgemm.h"
#include "primitive.h"

#include <stdio.h>
#include <stdlib.h>

static dnnl_data_type_t
act_type(const ia3_cpu *cpu)
{
    return cpu->bf16 ? dnnl_bf16 : dnnl_f32;
}

static void
md_release3(ia3_md md[3])
{
    for (int i = 0; i < 3; i++)
        ia3_md_release(&md[i]);
}

/* Describes a matrix product with `rows` rows. With weights NULL, oneDNN may choose their layout. */
static dnnl_primitive_desc_t
product_desc(ia3_cpu *cpu, int rows, int k, int n, ia3_out out, const ia3_md *weights)
{
    dnnl_dims_t dims = {k, n};
    ia3_md md[3] = {0};
    dnnl_primitive_attr_t attr = NULL;
    dnnl_post_ops_t ops = NULL;
    dnnl_primitive_desc_t pd = NULL;
    bool ok = ia3_md_matrix(&md[0], rows, k, act_type(cpu), k, 1) &&
              ia3_md_matrix(&md[2], rows, n, out == IA3_OUT_ACT ? act_type(cpu) : dnnl_f32, n, 1) &&
              (weights || ia3_md_init_any(&md[1], 2, dims, act_type(cpu))) &&
              dnnl_primitive_attr_create(&attr) == dnnl_success &&
              dnnl_primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user) == dnnl_success;
    if (ok && out == IA3_OUT_ADD_F32)
        ok = dnnl_post_ops_create(&ops) == dnnl_success && ia3_post_ops_sum(ops) &&
             dnnl_primitive_attr_set_post_ops(attr, ops) == dnnl_success;
    if (ok && !ia3_matmul_pd(&pd, cpu->engine, &md[0], weights ? weights : &md[1], &md[2], attr))
        pd = NULL;
    if (ops)
        dnnl_post_ops_destroy(ops);
    if (attr)
        dnnl_primitive_attr_destroy(attr);
    md_release3(md);
    return pd;
}

/* Asks oneDNN for its layout of the weights. False when it has no packed one or cannot compute this product. */
static bool
choose_layout(ia3_cpu *cpu, ia3_shape *s)
{
    ia3_onednn_single_thread();
    dnnl_primitive_desc_t pd = product_desc(cpu, IA3_MAX_BLOCK, s->k, s->n, IA3_OUT_F32, NULL);
    if (!pd)
        return false;
    ia3_md plain = {0};
    ia3_md_ptr wanted = dnnl_primitive_desc_query_md(pd, dnnl_query_weights_md, 0);
    bool ok = ia3_md_matrix(&plain, s->k, s->n, act_type(cpu), s->n, 1) &&
              !dnnl_memory_desc_equal(wanted, ia3_md_get(&plain)) && ia3_md_copy(&s->weights, wanted);
    ia3_md_release(&plain);
    dnnl_primitive_desc_destroy(pd);
    return ok;
}

ia3_shape *
ia3_shape_get(ia3_cpu *cpu, int k, int n)
{
    for (ia3_shape *s = cpu->shapes; s; s = s->next)
        if (s->k == k && s->n == n)
            return s;
    ia3_shape *s = ia3_alloc(sizeof *s);
    s->k = k;
    s->n = n;
    s->own = cpu->own_bf16 && k % 2 == 0;
    s->bf16 = cpu->weights_bf16;
    s->portable = !s->own && (!cpu->bf16 || !choose_layout(cpu, s));
    s->next = cpu->shapes;
    cpu->shapes = s;
    return s;
}

static void
product_free(ia3_cpu *cpu, ia3_product *p)
{
    for (int i = 0; i < cpu->threads; i++) {
        dnnl_memory_destroy(p->src[i]);
        dnnl_memory_destroy(p->dst[i]);
        dnnl_memory_destroy(p->pad[i]);
    }
    dnnl_primitive_destroy(p->primitive);
    free(p->src);
    free(p->dst);
    free(p->pad);
    free(p);
}

void
ia3_shapes_free(ia3_cpu *cpu)
{
    while (cpu->shapes) {
        ia3_shape *s = cpu->shapes;
        cpu->shapes = s->next;
        for (int out = 0; out < 3; out++)
            for (int b = 0; b < IA3_N_BLOCKS; b++)
                if (s->products[out][b])
                    product_free(cpu, s->products[out][b]);
        ia3_md_release(&s->weights);
        free(s);
    }
}

static bool
product_memories(ia3_cpu *cpu, ia3_product *p, const ia3_md *src, const ia3_md *dst, const ia3_md *pad)
{
    size_t n = (size_t) cpu->threads;
    p->src = ia3_alloc_array(n, sizeof *p->src);
    p->dst = ia3_alloc_array(n, sizeof *p->dst);
    p->pad = ia3_alloc_array(n, sizeof *p->pad);
    for (size_t i = 0; i < n; i++)
        if (dnnl_memory_create(&p->src[i], ia3_md_get(src), cpu->engine, DNNL_MEMORY_NONE) != dnnl_success ||
            dnnl_memory_create(&p->dst[i], ia3_md_get(dst), cpu->engine, DNNL_MEMORY_NONE) != dnnl_success ||
            dnnl_memory_create(&p->pad[i], ia3_md_get(pad), cpu->engine, DNNL_MEMORY_NONE) != dnnl_success)
            return false;
    return true;
}

static void
refused(const ia3_shape *s, int rows)
{
    fprintf(stderr, "ERROR: oneDNN could not create a matrix product of %d rows by a %d by %d matrix\n", rows,
            s->k, s->n);
    abort();
}

ia3_product *
ia3_product_get(ia3_cpu *cpu, ia3_shape *s, ia3_out out, int block)
{
    if (out == IA3_OUT_ACT && !cpu->bf16)
        out = IA3_OUT_F32; /* act is fp32, so the two are the same */
    if (s->products[out][block])
        return s->products[out][block];
    ia3_onednn_single_thread();
    int rows = ia3_block_rows[block];
    dnnl_primitive_desc_t pd = product_desc(cpu, rows, s->k, s->n, out, &s->weights);
    if (!pd)
        refused(s, rows);
    ia3_product *p = ia3_alloc(sizeof *p);
    p->scratchpad = ia3_pd_scratchpad(pd);
    ia3_md md[3] = {0};
    if (dnnl_primitive_create(&p->primitive, pd) != dnnl_success ||
        !ia3_md_matrix(&md[0], rows, s->k, act_type(cpu), s->k, 1) ||
        !ia3_md_matrix(&md[1], rows, s->n, out == IA3_OUT_ACT ? act_type(cpu) : dnnl_f32, s->n, 1) ||
        !ia3_md_bytes(&md[2], p->scratchpad) || !product_memories(cpu, p, &md[0], &md[1], &md[2]))
        refused(s, rows);
    dnnl_primitive_desc_destroy(pd);
    md_release3(md);
    s->products[out][block] = p;
    return p;
}

void
ia3_product_run(ia3_cpu *cpu, ia3_product *p, int slot, const ia3_panel *panel, const void *src, void *dst,
                void *scratchpad)
{
    /* oneDNN's interface takes a non-const pointer even for memory that it only reads. */
    dnnl_memory_set_data_handle(p->src[slot], (void *) (uintptr_t) src);
    dnnl_memory_set_data_handle(p->dst[slot], dst);
    dnnl_memory_set_data_handle(p->pad[slot], scratchpad);
    dnnl_exec_arg_t args[4] = {{DNNL_ARG_SRC, p->src[slot]},
                               {DNNL_ARG_WEIGHTS, panel->memory},
                               {DNNL_ARG_DST, p->dst[slot]},
                               {DNNL_ARG_SCRATCHPAD, p->pad[slot]}};
    dnnl_status_t status = dnnl_primitive_execute(p->primitive, cpu->streams[slot], 4, args);
    if (status != dnnl_success) {
        fprintf(stderr, "ERROR: oneDNN failed in a matrix product (status %d)\n", (int) status);
        abort();
    }
}

/* Copies between a plain array and the panel's layout: into the panel if `pack`, otherwise out of it. */
static bool
reorder(ia3_cpu *cpu, const ia3_panel *panel, int slot, void *plain, int64_t row, int64_t col, bool pack)
{
    ia3_onednn_single_thread();
    const ia3_shape *s = panel->shape;
    ia3_md md = {0};
    dnnl_memory_t outside = NULL;
    dnnl_primitive_desc_t pd = NULL;
    dnnl_primitive_t primitive = NULL;
    bool ok = ia3_md_matrix(&md, s->k, s->n, act_type(cpu), row, col) &&
              dnnl_memory_create(&outside, ia3_md_get(&md), cpu->engine, plain) == dnnl_success;
    ia3_md_ptr a = ia3_md_get(&md), b = ia3_md_get(&s->weights);
    ok = ok &&
         dnnl_reorder_primitive_desc_create(&pd, pack ? a : b, cpu->engine, pack ? b : a, cpu->engine,
                                            NULL) == dnnl_success &&
         dnnl_primitive_create(&primitive, pd) == dnnl_success;
    if (ok) {
        dnnl_exec_arg_t args[2] = {{DNNL_ARG_FROM, pack ? outside : panel->memory},
                                   {DNNL_ARG_TO, pack ? panel->memory : outside}};
        ok = dnnl_primitive_execute(primitive, cpu->streams[slot], 2, args) == dnnl_success;
    }
    if (primitive)
        dnnl_primitive_destroy(primitive);
    if (pd)
        dnnl_primitive_desc_destroy(pd);
    if (outside)
        dnnl_memory_destroy(outside);
    ia3_md_release(&md);
    return ok;
}

bool
ia3_panel_alloc(ia3_cpu *cpu, ia3_panel *panel)
{
    panel->data = ia3_cpu_slab_alloc(cpu, ia3_panel_bytes(panel), panel->backward);
    return panel->data != NULL;
}

/* Packs weights into a panel that has memory. */
static bool
fill(ia3_cpu *cpu, const ia3_panel *panel, int slot, const void *plain, int64_t row, int64_t col)
{
    if (panel->shape->own)
        ia3_bgemm_pack(panel->data, plain, panel->shape->k, panel->n, row, col);
    else if (panel->shape->portable)
        ia3_fgemm_pack(panel->data, plain, panel->shape->k, panel->n, row, col, cpu->weights_bf16);
    else
        return reorder(cpu, panel, slot, (void *) (uintptr_t) plain, row, col, true);
    return true;
}

bool
ia3_panel_pack(ia3_cpu *cpu, ia3_panel *panel, int slot, const void *plain, int64_t row, int64_t col)
{
    if (!ia3_panel_alloc(cpu, panel))
        return false;
    const bool own = panel->shape->own || panel->shape->portable;
    if (!own && dnnl_memory_create(&panel->memory, ia3_md_get(&panel->shape->weights), cpu->engine,
                                   panel->data) != dnnl_success)
        panel->memory = NULL;
    if ((!own && !panel->memory) || !fill(cpu, panel, slot, plain, row, col)) {
        ia3_panel_free(cpu, panel);
        return false;
    }
    return true;
}

void
ia3_panel_repack(ia3_cpu *cpu, const ia3_panel *panel, int slot, const void *plain, int64_t row, int64_t col)
{
    if (fill(cpu, panel, slot, plain, row, col))
        return;
    fprintf(stderr, "ERROR: oneDNN could not pack a %d by %d matrix\n", panel->shape->k, panel->n);
    abort();
}

bool
ia3_panel_unpack(ia3_cpu *cpu, const ia3_panel *panel, int slot, void *plain, int64_t row, int64_t col)
{
    if (panel->shape->own) {
        ia3_bgemm_unpack(plain, panel->data, panel->shape->k, panel->n, row, col);
        return true;
    }
    if (panel->shape->portable) {
        ia3_fgemm_unpack(plain, panel->data, panel->shape->k, panel->n, row, col, cpu->weights_bf16);
        return true;
    }
    return reorder(cpu, panel, slot, plain, row, col, false);
}

void
ia3_panel_free(ia3_cpu *cpu, ia3_panel *panel)
{
    if (panel->memory)
        dnnl_memory_destroy(panel->memory);
    if (panel->data)
        ia3_cpu_slab_free(cpu, panel->data, ia3_panel_bytes(panel));
    panel->memory = NULL;
    panel->data = NULL;
}

size_t
ia3_panel_bytes(const ia3_panel *panel)
{
    if (panel->shape->own)
        return ia3_bgemm_bytes(panel->shape->k, panel->n);
    if (panel->shape->portable)
        return ia3_fgemm_bytes(panel->shape->k, panel->n, panel->shape->bf16);
    return dnnl_memory_desc_get_size(ia3_md_get(&panel->shape->weights));
}
