/*
 * trace.c
 *     Passes intermediate results to tests (ia3_model_set_trace). It simply copies them to host memory, which is slow.
 */
#include "pass.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"

static float *
act_to_host(const ia3_pass *p, const void *values, size_t n)
{
    ia3_device *dev = p->m->dev;
    float *host = ia3_alloc_array(n, sizeof(float));
    if (dev->dtype == IA3_F32) {
        dev->ops->download(dev, host, values, n * sizeof(float));
        return host;
    }
    uint16_t *raw = ia3_alloc_array(n, sizeof(uint16_t));
    dev->ops->download(dev, raw, values, n * sizeof(uint16_t));
    for (size_t i = 0; i < n; i++) {
        uint32_t bits = (uint32_t) raw[i] << 16;
        memcpy(&host[i], &bits, sizeof bits);
    }
    free(raw);
    return host;
}

static void
emit(const ia3_pass *p, const char *site, int layer, const float *host, int rows, int cols)
{
    char name[64];
    if (layer >= 0)
        snprintf(name, sizeof name, "%s.%d", site, layer);
    else
        snprintf(name, sizeof name, "%s", site);
    p->m->trace(name, host, rows, cols, p->m->trace_arg);
}

void
ia3_trace_f32(const ia3_pass *p, const char *site, int layer, const float *values, int rows, int cols)
{
    float *host = ia3_alloc_array((size_t) rows * cols, sizeof(float));
    p->m->dev->ops->download(p->m->dev, host, values, (size_t) rows * cols * sizeof(float));
    emit(p, site, layer, host, rows, cols);
    free(host);
}

void
ia3_trace_act(const ia3_pass *p, const char *site, int layer, const void *values, int rows, int cols)
{
    float *host = act_to_host(p, values, (size_t) rows * cols);
    emit(p, site, layer, host, rows, cols);
    free(host);
}

/* Emits the keys (which = 0) or values (1) of the fused matrix product, scaled as attention scales them. */
static void
trace_half(const ia3_pass *p, int layer, const float *kv, int which)
{
    ia3_device *dev = p->m->dev;
    const ia3_batch *b = p->batch;
    int inner = p->m->config.inner;
    float *half = ia3_alloc_array((size_t) p->enc.rows * inner, sizeof(float));
    float *scale = ia3_alloc_array(inner, sizeof(float));
    for (int i = 0; i < b->n_inputs; i++) {
        bool scaled = b->n_slots > 0;
        if (scaled)
            dev->ops->download(
                dev, scale,
                ia3_pass_vector(p, b->slot_of_input.v[i], true, layer, IA3_VECTOR_CROSS_K + which),
                (size_t) inner * sizeof(float));
        for (int r = b->enc_offsets.v[i]; r < b->enc_offsets.v[i + 1]; r++)
            for (int j = 0; j < inner; j++)
                half[(size_t) r * inner + j] =
                    kv[((size_t) r * 2 + which) * inner + j] * (scaled ? scale[j] : 1.0f);
    }
    emit(p, which ? "decoder.cross_v" : "decoder.cross_k", layer, half, p->enc.rows, inner);
    free(half);
    free(scale);
}

void
ia3_trace_cross(const ia3_pass *p, int layer, const void *kv)
{
    float *host = act_to_host(p, kv, (size_t) p->enc.rows * 2 * p->m->config.inner);
    trace_half(p, layer, host, 0);
    trace_half(p, layer, host, 1);
    free(host);
}
