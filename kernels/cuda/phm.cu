/*
 * phm.cu
 *     The bottleneck of Compacter. Formulas: kernels/cpu/phm.c.
 *
 * A block computes a row; for sums over rows, one thread per column adds the rows in their order. This is simple and deterministic
 * but not fast, which is acceptable because the method exists for comparison.
 */
#include "four.cuh"

namespace {

enum { THREADS = 256, WARPS = THREADS / 32, N = IA3_PHM, SQUARE = N * N };

/* The sums of one row in one layer. */
struct layer_sums {
    float u[SQUARE], z[SQUARE], dz[SQUARE], du[SQUARE];
};
struct row_sums {
    layer_sums down, up;
};

/* What a block has in shared memory; the hidden layer t and its gradient v, [width] each, follow. */
struct block_state {
    float partial[WARPS];
    row_sums sums;
};

/* out_ab = Σ_k x[a,k] · y_b[k] for all a and b < N, stored at [b·N + a]; x has N parts of `each` numbers, as has y. */
template <typename T>
__device__ __forceinline__ void
multiply_parts(float *out, const T *x, const float *y, int each, float *shared)
{
    for (int b = 0; b < N; b++)
        for (int a = 0; a < N; a++) {
            float sum = 0.0f;
            for (int k = (int) threadIdx.x; k < each; k += THREADS)
                sum += ia3_value(x + (size_t) a * (size_t) each + k) * y[(size_t) b * (size_t) each + k];
            sum = ia3_block_sum<WARPS>(sum, shared);
            if (threadIdx.x == 0)
                out[b * N + a] = sum;
        }
    __syncthreads();
}

/* Computes u and z of the input x, for all threads. */
__device__ __forceinline__ void
enter(layer_sums *s, const float *x, const ia3_phm &m, float *shared)
{
    multiply_parts(s->u, x, m.left, m.in / N, shared);
    if (threadIdx.x < SQUARE) {
        const int i = (int) threadIdx.x / N, r = (int) threadIdx.x % N;
        float sum = 0.0f;
        for (int p = 0; p < N; p++)
            sum += m.rule[i * SQUARE + p * N + r] * s->u[i * N + p];
        s->z[i * N + r] = sum;
    }
    __syncthreads();
}

/* Computes du from dz, for all threads. */
__device__ __forceinline__ void
enter_bwd(layer_sums *s, const ia3_phm &m)
{
    if (threadIdx.x < SQUARE) {
        const int i = (int) threadIdx.x / N, p = (int) threadIdx.x % N;
        float sum = 0.0f;
        for (int r = 0; r < N; r++)
            sum += m.rule[i * SQUARE + p * N + r] * s->dz[i * N + r];
        s->du[i * N + p] = sum;
    }
    __syncthreads();
}

/* Column `col` of the layer's result. */
__device__ __forceinline__ float
leave(const layer_sums *sums, const ia3_phm &m, int col)
{
    const int each = m.out / N, r = col / each, s = col % each;
    float sum = m.bias[col];
    for (int i = 0; i < N; i++)
        sum += sums->z[i * N + r] * m.right[(size_t) i * (size_t) each + s];
    return sum;
}

/* The hidden layer t of a row y, and the sums of the layer up, for all threads. */
__device__ __forceinline__ void
narrow(block_state *state, float *t, const float *y, const ia3_phm_bottleneck &b)
{
    enter(&state->sums.down, y, b.down, state->partial);
    for (int k = (int) threadIdx.x; k < b.down.out; k += THREADS) {
        const float sum = leave(&state->sums.down, b.down, k);
        t[k] = sum > 0.0f ? sum : 0.0f;
    }
    __syncthreads();
    enter(&state->sums.up, t, b.up, state->partial);
}

__global__ void
__launch_bounds__(THREADS) forward_kernel(float *ys, const ia3_phm_bottleneck b)
{
    IA3_SHARED(block_state, state);
    float *t = (float *) (state + 1), *y = ys + (size_t) blockIdx.x * (size_t) b.up.out;
    narrow(state, t, y, b);
    for (int i = (int) threadIdx.x; i < b.up.out; i += THREADS)
        y[i] += leave(&state->sums.up, b.up, i);
}

/* Computes t, v and the sums of row blockIdx.x. */
template <typename T>
__global__ void
__launch_bounds__(THREADS) hidden_kernel(float *ts, float *vs, row_sums *sums, const T *dy, const float *y,
                                         const ia3_phm_bottleneck b)
{
    IA3_SHARED(block_state, state);
    const int width = b.down.out, each = width / N;
    const size_t row = blockIdx.x;
    float *t = (float *) (state + 1), *v = t + width;
    layer_sums *up = &state->sums.up, *down = &state->sums.down;
    narrow(state, t, y + row * (size_t) b.up.out, b);
    multiply_parts(up->dz, dy + row * (size_t) b.up.out, b.up.right, b.up.out / N, state->partial);
    enter_bwd(up, b.up);
    for (int k = (int) threadIdx.x; k < width; k += THREADS) {
        const int p = k / each, q = k % each;
        float sum = 0.0f;
        for (int i = 0; i < N; i++)
            sum += up->du[i * N + p] * b.up.left[i * each + q];
        v[k] = t[k] > 0.0f ? sum : 0.0f;
        ts[row * (size_t) width + k] = t[k];
        vs[row * (size_t) width + k] = v[k];
    }
    __syncthreads();
    multiply_parts(down->dz, v, b.down.right, each, state->partial);
    enter_bwd(down, b.down);
    for (int k = (int) threadIdx.x; k < (int) (sizeof(row_sums) / sizeof(float)); k += THREADS)
        ((float *) &sums[row])[k] = ((const float *) &state->sums)[k];
}

/* Adds to the gradients of the vectors that are as long as a fourth of a row, and of u, and computes dy: column q of each fourth. */
template <typename T>
__device__ __forceinline__ void
wide_column(int q, T *dy, const ia3_phm_bottleneck_grad &g, const row_sums *sums, const float *y, int rows,
            const ia3_phm_bottleneck &b)
{
    const int each = b.up.out / N;
    const size_t cols = (size_t) b.up.out;
    for (int row = 0; row < rows; row++, y += cols, dy += cols, sums++)
        for (int p = 0; p < N; p++) {
            const int col = p * each + q;
            const float d = ia3_value(dy + col), x = y[col];
            float sum = d;
            g.up.bias[col] += d;
            for (int i = 0; i < N; i++) {
                const int n = i * each + q;
                const float du = sums->down.du[i * N + p];
                g.up.right[n] += sums->up.z[i * N + p] * d;
                g.down.left[n] += du * x;
                sum += du * b.down.left[n];
            }
            ia3_set_value(dy + col, sum);
        }
}

/* The same for what is as wide as the bottleneck: number k of the layer down's bias and ρ and of the layer up's l. */
__device__ __forceinline__ void
narrow_column(int k, const ia3_phm_bottleneck_grad &g, const row_sums *sums, const float *t, const float *v,
              int rows, int width)
{
    const int each = width / N, i = k / each, s = k % each;
    for (int row = 0; row < rows; row++, t += width, v += width) {
        g.down.bias[k] += v[k];
        for (int p = 0; p < N; p++) {
            g.down.right[k] += sums[row].down.z[i * N + p] * v[p * each + s];
            g.up.left[k] += sums[row].up.du[i * N + p] * t[p * each + s];
        }
    }
}

/* The same for number k of the matrices A. */
__device__ __forceinline__ void
rule_element(int k, const ia3_phm_bottleneck_grad &g, const row_sums *sums, int rows)
{
    const int u = k / N, z = k / SQUARE * N + k % N;
    for (int row = 0; row < rows; row++) {
        g.down.rule[k] += sums[row].down.u[u] * sums[row].down.dz[z];
        g.up.rule[k] += sums[row].up.u[u] * sums[row].up.dz[z];
    }
}

template <typename T>
__global__ void
__launch_bounds__(THREADS)
    columns_kernel(T *dy, const ia3_phm_bottleneck_grad g, const row_sums *sums, const float *ts,
                   const float *vs, const float *y, int rows, const ia3_phm_bottleneck b)
{
    const int each = b.up.out / N, width = b.down.out;
    const int i = (int) (blockIdx.x * THREADS + threadIdx.x), k = i - each, n = k - width;
    if (k < 0)
        wide_column(i, dy, g, sums, y, rows, b);
    else if (n < 0)
        narrow_column(k, g, sums, ts, vs, rows, width);
    else if (n < N * SQUARE)
        rule_element(n, g, sums, rows);
}

template <typename T>
void
backward(ia3_cuda *cuda, T *dy, const ia3_phm_bottleneck_grad *g, const float *y, int rows,
         const ia3_phm_bottleneck *b)
{
    const size_t mark = ia3_cuda_arena_mark(&cuda->base), width = (size_t) b->down.out;
    const size_t n = (size_t) rows * width, threads = (size_t) b->up.out / N + width + N * SQUARE;
    float *ts = (float *) ia3_cuda_arena_alloc(&cuda->base, n * sizeof(float));
    float *vs = (float *) ia3_cuda_arena_alloc(&cuda->base, n * sizeof(float));
    row_sums *sums = (row_sums *) ia3_cuda_arena_alloc(&cuda->base, (size_t) rows * sizeof(row_sums));
    IA3_LAUNCH((hidden_kernel<T>), (unsigned) rows, THREADS, sizeof(block_state) + 2 * width * sizeof(float),
               cuda->stream, ts, vs, sums, (const T *) dy, y, *b);
    IA3_LAUNCH((columns_kernel<T>), ia3_blocks(threads, THREADS), THREADS, 0, cuda->stream, dy, *g,
               (const row_sums *) sums, (const float *) ts, (const float *) vs, y, rows, *b);
    ia3_cuda_arena_release(&cuda->base, mark);
}

} /* namespace */

void
ia3_cuda_phm(ia3_device *dev, float *y, int rows, const ia3_phm_bottleneck *b)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows > 0)
        IA3_LAUNCH(forward_kernel, (unsigned) rows, THREADS,
                   sizeof(block_state) + (size_t) b->down.out * sizeof(float), cuda->stream, y, *b);
}

void
ia3_cuda_phm_bwd(ia3_device *dev, void *dy, const ia3_phm_bottleneck_grad *g, const float *y, int rows,
                 const ia3_phm_bottleneck *b)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (rows <= 0)
        return;
    if (cuda->bf16)
        backward(cuda, (uint16_t *) dy, g, y, rows, b);
    else
        backward(cuda, (float *) dy, g, y, rows, b);
}
