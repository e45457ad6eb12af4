/*
 * attention.cu
 *     The attention operations: chooses the kernel, and adds up the sequences' shares of dl_k, dl_v and the gradient of the bias.
 *
 * The tensor-core kernels handle bf16 where d_kv is a multiple of 8 up to 128 and rows can be read 16 bytes at a
 * time; the generic kernels handle everything else, including fp32. The backward pass stores partial sums [n_seq,
 * splits, 2, inner], which are added up in the order of sequences and splits, so a result does not depend on the
 * scheduling of blocks.
 */
#include "attention.cuh"

namespace {

bool
aligned(const void *p, size_t stride)
{
    return (uintptr_t) p % 16 == 0 && stride % 8 == 0;
}

bool
takes_tensor_cores(const ia3_cuda *cuda, const ia3_attention *a)
{
    size_t inner = (size_t) a->n_heads * (size_t) a->d_kv;
    /* one query of each sequence, as in generation, would leave most of a tile empty */
    return cuda->bf16 && a->kv_apart == 0 && a->d_kv % 8 == 0 && a->d_kv <= 128 &&
           aligned(a->q, a->q_stride) && aligned(a->k, a->kv_stride) && aligned(a->v, a->kv_stride) &&
           aligned(a->out, inner);
}

bool
takes_tensor_cores_bwd(const ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g)
{
    return takes_tensor_cores(cuda, a) && aligned(g->dout, 8) && aligned(g->dq, a->q_stride) &&
           aligned(g->dk, a->kv_stride) && aligned(g->dv, a->kv_stride);
}

enum { SUM_THREADS = 128, SUM_AHEAD = 8 };

/* The sum over the splits of one sequence in one column of its partial sums. */
__device__ __forceinline__ float
sum_splits(const float *partial, int n_k, int inner, int splits, int keys)
{
    const int used = ia3_splits_used(n_k, keys, splits);
    float sum = 0.0f;
    for (int x = 0; x < used; x++)
        sum += partial[(size_t) x * 2 * (size_t) inner];
    return sum;
}

/*
 * Adds the sequences' partial sums to the gradient of l_k (blockIdx.y 0) or l_v (1), one thread per column. A few
 * sequences are read ahead, because each read depends on an earlier one for its address.
 */
__global__ void
__launch_bounds__(SUM_THREADS) sum_kernel(const ia3_attention a, ia3_scale_grad grad_k, ia3_scale_grad grad_v,
                                          const float *partial, int splits, int keys)
{
    const int inner = a.n_heads * a.d_kv, col = (int) (blockIdx.x * SUM_THREADS + threadIdx.x);
    const bool values = blockIdx.y == 1;
    float *const *slots = values ? grad_v.slots : grad_k.slots;
    const int32_t *slot_of = values ? grad_v.slot_of : grad_k.slot_of;
    const size_t offset = values ? grad_v.offset : grad_k.offset;
    if (col >= inner || !slots)
        return;
    float *to = NULL, sum = 0.0f;
    for (int first = 0; first < a.n_seq; first += SUM_AHEAD) {
        float *slot[SUM_AHEAD], part[SUM_AHEAD];
#pragma unroll
        for (int i = 0; i < SUM_AHEAD; i++) {
            const int s = first + i < a.n_seq ? first + i : a.n_seq - 1;
            slot[i] = slots[slot_of[s]] + offset + col;
            part[i] =
                sum_splits(partial + ((size_t) s * (size_t) splits * 2 + blockIdx.y) * (size_t) inner + col,
                           a.k_offsets[s + 1] - a.k_offsets[s], inner, splits, keys);
        }
#pragma unroll
        for (int i = 0; i < SUM_AHEAD; i++) {
            if (first + i >= a.n_seq)
                break;
            if (slot[i] != to) {
                if (to)
                    *to = sum;
                to = slot[i];
                sum = *to;
            }
            sum += part[i];
        }
    }
    if (to)
        *to = sum;
}

/* Adds the shares to the gradient of the bias of head blockIdx.y, one thread per distance. */
__global__ void
__launch_bounds__(SUM_THREADS) sum_shares_kernel(const ia3_attention a, float *dbias, const ia3_bias_shares s)
{
    const int width = 2 * a.bias_span - 1, x = (int) (blockIdx.x * SUM_THREADS + threadIdx.x);
    const int head = (int) blockIdx.y, distance = x - (a.bias_span - 1);
    float sum = 0.0f;
    if (x >= width)
        return;
    for (int seq = 0; seq < a.n_seq; seq++) {
        const int n_q = a.q_offsets[seq + 1] - a.q_offsets[seq];
        const int size = ia3_share_size(s, a.k_offsets[seq + 1] - a.k_offsets[seq]);
        for (int group = 0; group * s.queries < n_q; group++) {
            const int at = distance + s.queries - 1 + group * s.queries;
            if (at >= 0 && at < size)
                sum += ia3_share_of(s, a, seq, head, group)[at];
        }
    }
    dbias[(size_t) head * (size_t) width + x] += sum;
}

/* The same for trees, one thread per number of steps from a query to its ancestor. */
__global__ void
__launch_bounds__(SUM_THREADS) sum_steps_kernel(const ia3_attention a, float *dbias, const float *biases)
{
    const int steps = (int) (blockIdx.x * SUM_THREADS + threadIdx.x), head = (int) blockIdx.y;
    const int first = a.q_offsets[0], rows = a.q_offsets[a.n_seq] - first;
    float sum = 0.0f;
    if (steps >= a.max_k)
        return;
    for (int r = 0; r < rows; r++)
        if (a.depth[first + r] >= steps)
            sum += biases[((size_t) r * (size_t) a.n_heads + (size_t) head) * (size_t) a.max_k + steps];
    dbias[(size_t) head * (2 * (size_t) a.bias_span - 1) + (size_t) (a.bias_span - 1 - steps)] += sum;
}

dim3
sum_grid(int columns, int n_heads)
{
    return dim3((unsigned) ((columns + SUM_THREADS - 1) / SUM_THREADS), (unsigned) n_heads);
}

/* Allocates the shares of the gradient of the bias, if it is wanted. */
ia3_bias_shares
allocate_shares(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, bool mma)
{
    ia3_bias_shares s = {};
    if (!g->dbias)
        return s;
    s.queries = mma ? (int) IA3_MMA_GROUP : (int) IA3_GENERIC_ROWS;
    s.step = mma ? (int) IA3_MMA_GROUP : (int) IA3_GENERIC_WALK;
    s.groups = (a->max_q + s.queries - 1) / s.queries;
    s.ld = (a->max_k + s.step - 1) / s.step * s.step + s.queries;
    s.p = (float *) ia3_cuda_arena_alloc(&cuda->base, (size_t) a->n_seq * (size_t) a->n_heads *
                                                          (size_t) s.groups * (size_t) s.ld * sizeof(float));
    return s;
}

/* Trees: with the gradient of the bias. */
void
tree_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, float *partial)
{
    float *biases = NULL;
    if (g->dbias && a->max_q > 0)
        biases = (float *) ia3_cuda_arena_alloc(&cuda->base, (size_t) a->n_seq * (size_t) a->max_q *
                                                                 (size_t) a->n_heads * (size_t) a->max_k *
                                                                 sizeof(float));
    ia3_cuda_tree_attention_bwd(cuda, a, g, partial, biases);
    if (biases)
        IA3_LAUNCH(sum_steps_kernel, sum_grid(a->max_k, a->n_heads), SUM_THREADS, 0, cuda->stream, *a,
                   g->dbias, (const float *) biases);
}

/* Sequences: likewise. */
void
sequences_bwd(ia3_cuda *cuda, const ia3_attention *a, const ia3_attention_grad *g, float *partial, int splits,
              bool mma)
{
    float *dots = (float *) ia3_cuda_arena_alloc(&cuda->base, (size_t) a->n_seq * (size_t) a->max_q *
                                                                  (size_t) a->n_heads * sizeof(float));
    const ia3_bias_shares shares = allocate_shares(cuda, a, g, mma);
    (mma ? ia3_cuda_attention_mma_bwd : ia3_cuda_attention_generic_bwd)(cuda, a, g, dots, partial, splits,
                                                                        shares);
    if (shares.p)
        IA3_LAUNCH(sum_shares_kernel, sum_grid(2 * a->bias_span - 1, a->n_heads), SUM_THREADS, 0,
                   cuda->stream, *a, g->dbias, shares);
}

} /* namespace */

void
ia3_cuda_attention(ia3_device *dev, const ia3_attention *a)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (a->n_seq <= 0 || a->max_q <= 0)
        return;
    if (a->parent)
        ia3_cuda_tree_attention(cuda, a);
    else if (takes_tensor_cores(cuda, a))
        ia3_cuda_attention_mma(cuda, a);
    else
        ia3_cuda_attention_generic(cuda, a);
}

void
ia3_cuda_attention_bwd(ia3_device *dev, const ia3_attention *a, const ia3_attention_grad *g)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (a->n_seq <= 0)
        return;
    const size_t mark = ia3_cuda_arena_mark(dev), inner = (size_t) a->n_heads * (size_t) a->d_kv;
    const size_t n_seq = (size_t) a->n_seq;
    const bool mma = takes_tensor_cores_bwd(cuda, a, g);
    /* in a tree, one block per head processes all keys of a sequence */
    const int at_once = mma ? (int) IA3_MMA_KEYS : (int) IA3_GENERIC_ROWS;
    const int keys = !a->parent ? at_once : a->max_q > 0 ? a->max_q : 1;
    const int splits = a->parent ? 1 : ia3_splits_used(a->max_k, keys, IA3_KEY_SPLITS);
    float *partial = NULL;
    if ((g->grad_k.slots || g->grad_v.slots) && splits > 0)
        partial = (float *) ia3_cuda_arena_alloc(dev, n_seq * (size_t) splits * 2 * inner * sizeof(float));
    if (a->parent)
        tree_bwd(cuda, a, g, partial);
    else
        sequences_bwd(cuda, a, g, partial, splits, mma);
    if (partial) {
        dim3 grid((unsigned) ((inner + SUM_THREADS - 1) / SUM_THREADS), 2);
        IA3_LAUNCH(sum_kernel, grid, SUM_THREADS, 0, cuda->stream, *a, g->grad_k, g->grad_v,
                   (const float *) partial, splits, keys);
    }
    ia3_cuda_arena_release(dev, mark);
}
