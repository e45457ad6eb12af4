/*
 * gated.cu
 *     The feed-forward activation with (IA)³ scaling and dropout, forward and backward. Formulas: kernels/cpu/gated.c.
 *
 * A thread processes eight columns. In the backward pass each run of rows with the same adapter is divided into chunks
 * of CHUNK rows. A block processes, in its columns, those chunks that begin among its CHUNK rows, and stores each
 * chunk's share of dl at the chunk's last row. A second kernel adds these up, with one block for every 32 columns of an
 * adapter: its SUM_WARPS warps take the chunks of a run in turn, and their sums are added in the order of the warps. So
 * a sum depends neither on scheduling nor on which other rows are in the batch, and both kernels have many blocks.
 */
#include "activation.cuh"
#include "columns.cuh"

namespace {

enum { THREADS = 128, BWD_THREADS = 64, CHUNK = 4, SUM_WARPS = 16, AHEAD = 4 };

__device__ __forceinline__ const float *
scale_at(const ia3_scale &s, int row, unsigned col)
{
    return s.slots ? s.slots[s.slot_of[row]] + s.offset + col : NULL;
}

/* x ⊙= l. An adapter's vectors may have any alignment; those of usual sizes are aligned to 16 bytes. */
__device__ __forceinline__ void
scale_by(float x[IA3_GROUP], const float *l, int n)
{
    float v[IA3_GROUP];
    ia3_load8(v, l, n, n >= IA3_GROUP && (uintptr_t) l % 16 == 0);
#pragma unroll
    for (int i = 0; i < IA3_GROUP; i++)
        x[i] *= v[i];
}

template <typename T, ia3_activation ACT>
__global__ void
__launch_bounds__(THREADS)
    gated_kernel(T *h, const T *g, int rows, const ia3_gated p, const ia3_cuda_mask mask, bool whole)
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

/* Processes eight columns of one row: stores dg and adds the row's share of dl. */
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

/* The first row of the run that contains `row`. A whole warp calls this; each lane checks AHEAD rows at a time. */
__device__ __forceinline__ int
run_start(const int32_t *slot_of, int row)
{
    const int slot = slot_of[row], lane = (int) threadIdx.x & 31;
    for (int last = row - 1; last >= 0; last -= 32 * AHEAD) {
        bool other[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int r = last - 32 * i - lane;
            other[i] = r < 0 || slot_of[r] != slot;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (const unsigned found = ia3_ballot(other[i]))
                return last - 32 * i - (__ffs((int) found) - 1) + 1;
    }
    return 0;
}

/* The first row, from `row` on, that has (or, unless `is`, has not) this slot; else `rows`. A whole warp calls this. */
__device__ __forceinline__ int
find_row(const int32_t *slot_of, int row, int rows, int slot, bool is)
{
    for (; row < rows; row += 32 * AHEAD) {
        bool hit[AHEAD];
#pragma unroll
        for (int i = 0; i < AHEAD; i++) {
            const int r = row + 32 * i + ((int) threadIdx.x & 31);
            hit[i] = r < rows && (slot_of[r] == slot) == is;
        }
#pragma unroll
        for (int i = 0; i < AHEAD; i++)
            if (const unsigned found = ia3_ballot(hit[i]))
                return row + 32 * i + __ffs((int) found) - 1;
    }
    return rows;
}

/* A block has a range of columns and CHUNK rows. sums [rows, d_ff]; NULL: no sums, and all rows count as one run. */
template <typename T, ia3_activation ACT>
__global__ void
__launch_bounds__(BWD_THREADS)
    gated_bwd_kernel(T *dg, const T *dh, const T *g, int rows, const ia3_gated p, const ia3_cuda_mask mask,
                     const int32_t *slot_of, float *sums, bool whole)
{
    const unsigned tiles = (ia3_groups(p.d_ff) + BWD_THREADS - 1) / BWD_THREADS;
    const unsigned col = (blockIdx.x % tiles * BWD_THREADS + threadIdx.x) * IA3_GROUP;
    const int first = (int) (blockIdx.x / tiles) * CHUNK;
    int run = sums ? run_start(slot_of, first) : first;
    if (col >= (unsigned) p.d_ff)
        return;
    float dl[IA3_GROUP] = {0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};
    bool mine = false; /* rows up to the end of a chunk that began earlier belong to another block */
    for (int row = first; row < rows; row++) {
        const bool begins = (row - run) % CHUNK == 0,
                   run_ends = sums && row + 1 < rows && slot_of[row + 1] != slot_of[row];
        if (begins && row >= first + CHUNK)
            break;
        mine = mine || begins;
        if (mine) {
            gated_bwd_group<T, ACT>(dg, dh, g, row, col, p, mask, whole, dl);
            if (sums && (row + 1 == rows || run_ends || (row + 1 - run) % CHUNK == 0)) {
                ia3_store8(sums + (size_t) row * (size_t) p.d_ff + col, dl, p.d_ff - (int) col, whole);
#pragma unroll
                for (int i = 0; i < IA3_GROUP; i++)
                    dl[i] = 0.0f;
            }
        }
        if (run_ends)
            run = row + 1;
    }
}

/* Adds the sums to grad. A block has 32 columns of one slot, and SUM_WARPS warps. */
__global__ void __launch_bounds__(32 * SUM_WARPS)
    sum_kernel(const float *sums, int rows, int d_ff, ia3_scale_grad grad)
{
    IA3_SHARED(float, parts); /* [SUM_WARPS, 32] */
    const int lane = (int) threadIdx.x & 31, warp = (int) threadIdx.x >> 5, slot = (int) blockIdx.y;
    const int col = (int) blockIdx.x * 32 + lane;
    float total = 0.0f;
    for (int begin = 0, end; (begin = find_row(grad.slot_of, begin, rows, slot, true)) < rows; begin = end) {
        end = find_row(grad.slot_of, begin, rows, slot, false);
        float part = 0.0f;
#pragma unroll 4
        for (int chunk = begin + warp * CHUNK; chunk < end && col < d_ff; chunk += SUM_WARPS * CHUNK) {
            const int last = (chunk + CHUNK < end ? chunk + CHUNK : end) - 1;
            part += sums[(size_t) last * (size_t) d_ff + (size_t) col];
        }
        parts[warp * 32 + lane] = part;
        __syncthreads();
        for (int w = 0; w < SUM_WARPS && warp == 0; w++)
            total += parts[w * 32 + lane];
        __syncthreads();
    }
    if (warp == 0 && col < d_ff && total != 0.0f)
        grad.slots[slot][grad.offset + (size_t) col] += total;
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
    const bool whole =
        ia3_whole_groups(dg, p->d_ff) && ia3_whole_groups(dh, p->d_ff) && ia3_whole_groups(g, p->d_ff);
    IA3_LAUNCH((gated_bwd_kernel<T, ACT>), tiles * chunks, BWD_THREADS, 0, cuda->stream, (T *) dg,
               (const T *) dh, (const T *) g, rows, *p, ia3_cuda_mask_of(&p->dropout), grad->slot_of, sums,
               whole);
}

/* There is one kernel per activation, because with a branch per element each would need the registers of all. */
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
    if (grad.slots && grad.n_slots > 0)
        sums = (float *) ia3_cuda_arena_alloc(dev, (size_t) rows * (size_t) p->d_ff * sizeof(float));
    (cuda->bf16 ? dispatch_bwd<uint16_t> : dispatch_bwd<float>) (cuda, dg, dh, g, rows, p, &grad, sums);
    if (sums)
        IA3_LAUNCH(sum_kernel, dim3((unsigned) (p->d_ff + 31) / 32, (unsigned) grad.n_slots), 32 * SUM_WARPS,
                   32 * SUM_WARPS * sizeof(float), cuda->stream, (const float *) sums, rows, p->d_ff, grad);
    ia3_cuda_arena_release(dev, mark);
}
