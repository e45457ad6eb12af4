/*
 * gated.cu
 *     The feed-forward activation with (IA)³ scaling and dropout, forward and backward. Formulas: kernels/cpu/gated.c.
 *
 * A thread takes eight columns. Backward, a block walks CHUNK rows of its columns and leaves the sums that belong to
 * dl at the last row of every run of rows with one adapter; a second kernel adds these up in the order of rows. So
 * a sum does not depend on the schedule, and the first kernel has many blocks.
 */
#include "activation.cuh"
#include "columns.cuh"

namespace {

enum { THREADS = 128, BWD_THREADS = 64, CHUNK = 16, SUM_THREADS = 128 };

__device__ __forceinline__ const float *
scale_at(const ia3_scale &s, int row, unsigned col)
{
    return s.slots ? s.slots[s.slot_of[row]] + s.offset + col : NULL;
}

/* What pointers allow: l lies wherever the adapter's vectors put it, so it is read one column at a time. */
__device__ __forceinline__ void
scale_by(float x[IA3_GROUP], const float *l, int n)
{
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++)
        x[i] *= i < n ? l[i] : 0.0f;
}

template <typename T, ia3_activation ACT>
__global__ void
__launch_bounds__(THREADS) gated_kernel(T *h, const T *g, int rows, const ia3_gated p, const ia3_cuda_mask mask,
                                        bool whole)
{
    const unsigned groups = ia3_groups(p.d_ff), step = gridDim.x * THREADS;
    const size_t width = (size_t) p.d_ff * (p.gated ? 2 : 1);
    for (unsigned item = blockIdx.x * THREADS + threadIdx.x; item < groups * (unsigned) rows; item += step) {
        const unsigned row = item / groups, col = item % groups * IA3_GROUP;
        const int n = p.d_ff - (int) col;
        float value[IA3_GROUP], gate[IA3_GROUP];
        ia3_load8(value, g + row * width + col, n, whole);
#pragma unroll
        for (int i = 0; i < IA3_GROUP; i++)
            value[i] = ia3_cuda_activate<ACT>(value[i]);
        if (p.gated) {
            ia3_load8(gate, g + row * width + (size_t) p.d_ff + col, n, whole);
#pragma unroll
            for (int i = 0; i < IA3_GROUP; i++)
                value[i] *= gate[i];
        }
        if (const float *l = scale_at(p.scale, (int) row, col))
            scale_by(value, l, n);
        if (mask.on)
            ia3_drop8(value, mask, p.dropout.row_key[row], p.dropout.site, col);
        ia3_store8(h + (size_t) row * (size_t) p.d_ff + col, value, n, whole);
    }
}

/* One row of eight columns: stores dg, adds the row's part of dl. */
template <typename T, ia3_activation ACT>
__device__ __forceinline__ void
gated_bwd_group(T *dg, const T *dh, const T *g, int row, unsigned col, const ia3_gated &p,
                const ia3_cuda_mask &mask, bool whole, float dl[IA3_GROUP])
{
    const size_t width = (size_t) p.d_ff * (p.gated ? 2 : 1), at = (size_t) row * width + col;
    const int n = p.d_ff - (int) col;
    float x[IA3_GROUP], gate[IA3_GROUP], d[IA3_GROUP], d0[IA3_GROUP];
    ia3_load8(x, g + at, n, whole);
    ia3_load8(d, dh + (size_t) row * (size_t) p.d_ff + col, n, whole);
    if (p.gated)
        ia3_load8(gate, g + at + (size_t) p.d_ff, n, whole);
    if (mask.on)
        ia3_drop8(d, mask, p.dropout.row_key[row], p.dropout.site, col);
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++) {
        float derivative;
        x[i] = ia3_cuda_activate_grad<ACT>(x[i], &derivative);
        gate[i] = p.gated ? gate[i] : 1.0f;
        dl[i] += d[i] * x[i] * gate[i];
        d0[i] = derivative * gate[i];
    }
    if (const float *l = scale_at(p.scale, row, col))
        scale_by(d, l, n);
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++) {
        d0[i] *= d[i];
        x[i] *= d[i];
    }
    ia3_store8(dg + at, d0, n, whole);
    if (p.gated)
        ia3_store8(dg + at + (size_t) p.d_ff, x, n, whole);
}

/* Whether the sums of a chunk are left at this row. */
__device__ __forceinline__ bool
ends_run(const int32_t *slot_of, int row, int rows)
{
    return row + 1 == rows || (row + 1) % CHUNK == 0 || slot_of[row + 1] != slot_of[row];
}

/* Block (columns, chunk of rows). sums [rows, d_ff], or NULL. */
template <typename T, ia3_activation ACT>
__global__ void
__launch_bounds__(BWD_THREADS) gated_bwd_kernel(T *dg, const T *dh, const T *g, int rows, const ia3_gated p,
                                                const ia3_cuda_mask mask, const int32_t *slot_of, float *sums,
                                                bool whole)
{
    const unsigned tiles = (ia3_groups(p.d_ff) + BWD_THREADS - 1) / BWD_THREADS;
    const unsigned col = (blockIdx.x % tiles * BWD_THREADS + threadIdx.x) * IA3_GROUP;
    const int first = (int) (blockIdx.x / tiles) * CHUNK, last = first + CHUNK < rows ? first + CHUNK : rows;
    if (col >= (unsigned) p.d_ff)
        return;
    float dl[IA3_GROUP] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    for (int row = first; row < last; row++) {
        gated_bwd_group<T, ACT>(dg, dh, g, row, col, p, mask, whole, dl);
        if (!sums || !ends_run(slot_of, row, rows))
            continue;
        ia3_store8(sums + (size_t) row * (size_t) p.d_ff + col, dl, p.d_ff - (int) col, whole);
#pragma unroll
        for (int i = 0; i < IA3_GROUP; i++)
            dl[i] = 0.0f;
    }
}

/* grad += the sums, one thread per column. */
__global__ void
__launch_bounds__(SUM_THREADS) sum_kernel(const float *sums, int rows, int d_ff, ia3_scale_grad grad)
{
    const int col = (int) (blockIdx.x * SUM_THREADS + threadIdx.x);
    if (col >= d_ff)
        return;
    float total = 0.0f;
    for (int row = 0; row < rows; row++) {
        if (!ends_run(grad.slot_of, row, rows))
            continue;
        total += sums[(size_t) row * (size_t) d_ff + col];
        if (row + 1 == rows || grad.slot_of[row + 1] != grad.slot_of[row]) {
            grad.slots[grad.slot_of[row]][grad.offset + (size_t) col] += total;
            total = 0.0f;
        }
    }
}

template <typename T, ia3_activation ACT>
void
launch(ia3_cuda *cuda, void *h, const void *g, int rows, const ia3_gated *p)
{
    const unsigned blocks = ia3_blocks((size_t) rows * ia3_groups(p->d_ff), THREADS);
    const bool whole = ia3_whole_groups(h, p->d_ff) && ia3_whole_groups(g, p->d_ff);
    IA3_LAUNCH((gated_kernel<T, ACT>), blocks, THREADS, 0, cuda->stream, (T *) h, (const T *) g, rows, *p,
               ia3_cuda_mask_of(&p->dropout), whole);
}

template <typename T, ia3_activation ACT>
void
launch_bwd(ia3_cuda *cuda, void *dg, const void *dh, const void *g, int rows, const ia3_gated *p,
           const ia3_scale_grad *grad, float *sums)
{
    const unsigned tiles = (ia3_groups(p->d_ff) + BWD_THREADS - 1) / BWD_THREADS;
    const unsigned chunks = (unsigned) (rows + CHUNK - 1) / CHUNK;
    const bool whole = ia3_whole_groups(dg, p->d_ff) && ia3_whole_groups(dh, p->d_ff) &&
                       ia3_whole_groups(g, p->d_ff);
    IA3_LAUNCH((gated_bwd_kernel<T, ACT>), tiles * chunks, BWD_THREADS, 0, cuda->stream, (T *) dg, (const T *) dh,
               (const T *) g, rows, *p, ia3_cuda_mask_of(&p->dropout), grad->slot_of, sums, whole);
}

/* One kernel per activation: a branch per element would keep the registers of all of them. */
template <typename T>
void
dispatch(ia3_cuda *cuda, void *h, const void *g, int rows, const ia3_gated *p)
{
    switch (p->act) {
    case IA3_RELU:
        return launch<T, IA3_RELU>(cuda, h, g, rows, p);
    case IA3_GELU:
        return launch<T, IA3_GELU>(cuda, h, g, rows, p);
    case IA3_GELU_NEW:
        return launch<T, IA3_GELU_NEW>(cuda, h, g, rows, p);
    case IA3_SILU:
        return launch<T, IA3_SILU>(cuda, h, g, rows, p);
    }
}

template <typename T>
void
dispatch_bwd(ia3_cuda *cuda, void *dg, const void *dh, const void *g, int rows, const ia3_gated *p,
             const ia3_scale_grad *grad, float *sums)
{
    switch (p->act) {
    case IA3_RELU:
        return launch_bwd<T, IA3_RELU>(cuda, dg, dh, g, rows, p, grad, sums);
    case IA3_GELU:
        return launch_bwd<T, IA3_GELU>(cuda, dg, dh, g, rows, p, grad, sums);
    case IA3_GELU_NEW:
        return launch_bwd<T, IA3_GELU_NEW>(cuda, dg, dh, g, rows, p, grad, sums);
    case IA3_SILU:
        return launch_bwd<T, IA3_SILU>(cuda, dg, dh, g, rows, p, grad, sums);
    }
}

} /* namespace */

void
ia3_cuda_gated_act(ia3_device *dev, void *h, const void *g, int rows, const ia3_gated *p)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows > 0)
        (cuda->bf16 ? dispatch<uint16_t> : dispatch<float>) (cuda, h, g, rows, p);
}

void
ia3_cuda_gated_act_bwd(ia3_device *dev, void *dg, const void *dh, const void *g, int rows, const ia3_gated *p,
                       ia3_scale_grad grad)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    const size_t mark = ia3_cuda_arena_mark(dev);
    float *sums = NULL;
    if (grad.slots)
        sums = (float *) ia3_cuda_arena_alloc(dev, (size_t) rows * (size_t) p->d_ff * sizeof(float));
    (cuda->bf16 ? dispatch_bwd<uint16_t> : dispatch_bwd<float>) (cuda, dg, dh, g, rows, p, &grad, sums);
    if (sums)
        IA3_LAUNCH(sum_kernel, (unsigned) (p->d_ff + SUM_THREADS - 1) / SUM_THREADS, SUM_THREADS, 0, cuda->stream,
                   (const float *) sums, rows, p->d_ff, grad);
    ia3_cuda_arena_release(dev, mark);
}
