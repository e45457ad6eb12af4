/*
 * act.h
 *     Rows of act (activations in the compute dtype, device.h) as fp32 and back.
 */
#ifndef IA3_CPU_ACT_H
#define IA3_CPU_ACT_H

#include <stdbool.h>
#include <stddef.h>

#include "engine/base/half.h"

/* dst[i] = act array src[at + i] as fp32 */
static inline void
ia3_load_act(float *restrict dst, const void *src, size_t at, size_t n, bool bf16)
{
    if (bf16) {
        const uint16_t *restrict p = (const uint16_t *) src + at;
        for (size_t i = 0; i < n; i++)
            dst[i] = ia3_bf16_to_f32(p[i]);
    } else {
        memcpy(dst, (const float *) src + at, n * sizeof(float));
    }
}

/* act array dst[at + i] = src[i], rounded */
static inline void
ia3_store_act(void *dst, size_t at, const float *restrict src, size_t n, bool bf16)
{
    if (bf16) {
        uint16_t *restrict p = (uint16_t *) dst + at;
        for (size_t i = 0; i < n; i++)
            p[i] = ia3_f32_to_bf16(src[i]);
    } else {
        memcpy((float *) dst + at, src, n * sizeof(float));
    }
}

#endif
