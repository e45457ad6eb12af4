/*
 * rmsnorm.cu
 *     T5's layer norm, forward and backward, and the embedding. Formulas: kernels/cpu/rmsnorm.c.
 *
 * There is one block per row, with enough threads for a wide row at once, because a decoder has few rows and then waiting is
 * what takes the time. A thread keeps its first four columns in registers between the two passes over a row and reads further
 * ones again. Where there are many rows, the speed is limited by memory: 824 rows of 2,048 columns are 6.7 MB of input and
 * 3.4 MB of output, which takes 3 µs on an H100.
 */
#include "four.cuh"

namespace {

enum {
    NARROW = 4,
    WIDE = 16,
    WIDE_ROW = 1024,
    EMBED_THREADS = 128
}; /* warps; columns from which on they are WIDE */

/*
 * The second pass of a norm: y = w ⊙ x·r for one row, with r from the squares that each thread has added. The first columns of
 * a thread are in `kept`. rstd: where r goes, or NULL.
 */
template <int WARPS, typename T>
__device__ __forceinline__ void
finish_norm(T *y, float *rstd, const ia3_four &kept, const float *x, const float *w, float squares, int d,
            float eps, float *shared)
{
    const float r = 1.0f / sqrtf(ia3_block_sum<WARPS>(squares, shared) / (float) d + eps);
    const int first = (int) threadIdx.x * 4;
    if (rstd && threadIdx.x == 0)
        rstd[blockIdx.x] = r;
    for (int col = first; col < d; col += 32 * WARPS * 4) {
        ia3_four f = col == first ? kept : ia3_load_four(x, col, d);
        const ia3_four g = ia3_load_four(w, col, d);
        for (int i = 0; i < 4; i++)
            f.v[i] = g.v[i] * (f.v[i] * r);
        ia3_store_four(y, f, col, d);
    }
}

template <int WARPS, typename T>
__global__ void __launch_bounds__(32 * WARPS)
    norm_kernel(T *y, float *rstd, const float *x, const float *w, int d, float eps)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x;
    const float *from = x + row * (size_t) d;
    const int first = (int) threadIdx.x * 4;
    ia3_four kept = {};
    float squares = 0.0f;
    for (int col = first; col < d; col += 32 * WARPS * 4) {
        const ia3_four f = ia3_load_four(from, col, d);
        if (col == first)
            kept = f;
        for (int i = 0; i < 4; i++)
            squares += f.v[i] * f.v[i];
    }
    finish_norm<WARPS>(y + row * (size_t) d, rstd, kept, from, w, squares, d, eps, shared);
}

/* sum = x + drop(y), and its norm. A thread reads only what it has written itself. */
template <int WARPS, typename T>
__global__ void __launch_bounds__(32 * WARPS)
    add_norm_kernel(T *out, float *rstd, float *sum, const float *x, const float *y, const uint64_t *row_key,
                    uint32_t site, const ia3_cuda_mask mask, const float *w, int d, float eps)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x, at = row * (size_t) d;
    const uint64_t key = mask.on ? row_key[row] : 0;
    const int first = (int) threadIdx.x * 4;
    ia3_four kept = {};
    float squares = 0.0f;
    for (int col = first; col < d; col += 32 * WARPS * 4) {
        ia3_four f = ia3_load_four(y + at, col, d);
        const ia3_four before = ia3_load_four(x + at, col, d);
        if (mask.on)
            ia3_drop_four(&f, mask, key, site, col);
        for (int i = 0; i < 4; i++)
            f.v[i] += before.v[i];
        ia3_store_four(sum + at, f, col, d);
        if (col == first)
            kept = f;
        for (int i = 0; i < 4; i++)
            squares += f.v[i] * f.v[i];
    }
    finish_norm<WARPS>(out + at, rstd, kept, sum + at, w, squares, d, eps, shared);
}

/* What the gradient of a norm reads in four columns. */
typedef struct norm_inputs {
    ia3_four dy, x, w;
} norm_inputs;

template <typename T>
__device__ __forceinline__ norm_inputs
load_inputs(const T *dy, const float *x, const float *w, int col, int d)
{
    norm_inputs in;
    in.dy = ia3_load_four(dy, col, d);
    in.x = ia3_load_four(x, col, d);
    in.w = ia3_load_four(w, col, d);
    return in;
}

/* With DROP, dy becomes drop(dx) in the same pass. */
template <int WARPS, typename T, bool DROP>
__global__ void __launch_bounds__(32 * WARPS)
    norm_bwd_kernel(float *dx, T *dy, const float *x, const float *w, const float *rstd,
                    const uint64_t *row_key, uint32_t site, const ia3_cuda_mask mask, int d)
{
    IA3_SHARED(float, shared);
    const size_t row = blockIdx.x, at = row * (size_t) d;
    const uint64_t key = DROP && mask.on ? row_key[row] : 0;
    const int first = (int) threadIdx.x * 4;
    const float r = rstd[row];
    norm_inputs kept = {};
    float dot = 0.0f;
    for (int col = first; col < d; col += 32 * WARPS * 4) {
        const norm_inputs in = load_inputs(dy + at, x + at, w, col, d);
        if (col == first)
            kept = in;
        for (int i = 0; i < 4; i++)
            dot += in.dy.v[i] * in.w.v[i] * in.x.v[i];
    }
    const float c = ia3_block_sum<WARPS>(dot, shared) / (float) d * r * r;
    for (int col = first; col < d; col += 32 * WARPS * 4) {
        const norm_inputs in = col == first ? kept : load_inputs(dy + at, x + at, w, col, d);
        ia3_four sum = ia3_load_four(dx + at, col, d);
        for (int i = 0; i < 4; i++)
            sum.v[i] += r * (in.w.v[i] * in.dy.v[i] - in.x.v[i] * c);
        ia3_store_four(dx + at, sum, col, d);
        if (DROP) {
            if (mask.on)
                ia3_drop_four(&sum, mask, key, site, col);
            ia3_store_four(dy + at, sum, col, d);
        }
    }
}

template <typename T>
__global__ void
__launch_bounds__(EMBED_THREADS) embed_kernel(float *x, const int32_t *ids, int d, const T *table)
{
    const T *from = table + (size_t) ids[blockIdx.x] * (size_t) d;
    for (int col = (int) threadIdx.x * 4; col < d; col += EMBED_THREADS * 4)
        ia3_store_four(x + (size_t) blockIdx.x * (size_t) d, ia3_load_four(from, col, d), col, d);
}

} /* namespace */

namespace {

template <int WARPS, typename T>
void
norm(ia3_cuda *cuda, void *y, float *rstd, const float *x, const float *w, int rows, int d, float eps)
{
    IA3_LAUNCH((norm_kernel<WARPS, T>), (unsigned) rows, 32 * WARPS, WARPS * sizeof(float), cuda->stream,
               (T *) y, rstd, x, w, d, eps);
}

template <int WARPS, typename T>
void
add_norm(ia3_cuda *cuda, void *out, float *rstd, float *sum, const float *x, const float *y,
         const ia3_dropout *drop, const float *w, int rows, int d, float eps)
{
    IA3_LAUNCH((add_norm_kernel<WARPS, T>), (unsigned) rows, 32 * WARPS, WARPS * sizeof(float), cuda->stream,
               (T *) out, rstd, sum, x, y, drop->row_key, drop->site, ia3_cuda_mask_of(drop), w, d, eps);
}

template <int WARPS, typename T, bool DROP>
void
norm_bwd(ia3_cuda *cuda, float *dx, void *dy, const float *x, const float *w, const float *rstd,
         const ia3_dropout *drop, int rows, int d)
{
    IA3_LAUNCH((norm_bwd_kernel<WARPS, T, DROP>), (unsigned) rows, 32 * WARPS, WARPS * sizeof(float),
               cuda->stream, dx, (T *) dy, x, w, rstd, drop->row_key, drop->site, ia3_cuda_mask_of(drop), d);
}

/* The number of warps and the type of act as arguments of a template. */
#define DISPATCH(cuda, d, function, ...)                                                                     \
    ((d) < WIDE_ROW                                                                                          \
         ? (cuda)->bf16 ? function<NARROW, uint16_t __VA_ARGS__> : function<NARROW, float __VA_ARGS__>       \
     : (cuda)->bf16 ? function<WIDE, uint16_t __VA_ARGS__>                                                   \
                    : function<WIDE, float __VA_ARGS__>)

} /* namespace */

void
ia3_cuda_rmsnorm(ia3_device *dev, void *y, float *rstd, const float *x, const float *w, int rows, int d,
                 float eps)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows > 0)
        DISPATCH(cuda, d, norm)(cuda, y, rstd, x, w, rows, d, eps);
}

void
ia3_cuda_add_norm(ia3_device *dev, void *out, float *rstd, float *sum, const float *x, const float *y,
                  ia3_dropout drop, const float *w, int rows, int d, float eps)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows > 0)
        DISPATCH(cuda, d, add_norm)(cuda, out, rstd, sum, x, y, &drop, w, rows, d, eps);
}

void
ia3_cuda_rmsnorm_bwd(ia3_device *dev, float *dx, const void *dy, const float *x, const float *w,
                     const float *rstd, int rows, int d)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const ia3_dropout none = {};
    if (rows > 0) /* dy is only read */
        DISPATCH(cuda, d, norm_bwd, , false)(cuda, dx, (void *) dy, x, w, rstd, &none, rows, d);
}

void
ia3_cuda_norm_bwd_drop(ia3_device *dev, float *dx, void *dy, const float *x, const float *w,
                       const float *rstd, ia3_dropout drop, int rows, int d)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows > 0)
        DISPATCH(cuda, d, norm_bwd, , true)(cuda, dx, dy, x, w, rstd, &drop, rows, d);
}

void
ia3_cuda_embed(ia3_device *dev, float *x, const int32_t *ids, int rows, int d, const void *table)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    if (cuda->bf16)
        IA3_LAUNCH((embed_kernel<uint16_t>), (unsigned) rows, EMBED_THREADS, 0, cuda->stream, x, ids, d,
                   (const uint16_t *) table);
    else
        IA3_LAUNCH((embed_kernel<float>), (unsigned) rows, EMBED_THREADS, 0, cuda->stream, x, ids, d,
                   (const float *) table);
}
