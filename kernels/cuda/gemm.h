/*
 * gemm.h
 *     Matrix products with row-major weights W [out, in]. On a GPU by cuBLASLt (gemm.cu); the simulator has another
 *     implementation (test/cudasim/gemm_sim.cpp).
 */
#ifndef IA3_CUDA_GEMM_H
#define IA3_CUDA_GEMM_H

#include "portable.cuh"

typedef struct ia3_cuda_gemm ia3_cuda_gemm;

/* Bytes of device memory that products work in; what NVIDIA recommends for sm_90. */
static const size_t IA3_CUDA_GEMM_WORKSPACE = (size_t) 32 << 20;

/*
 * bf16: operands are bfloat16, else float32 (never TF32). workspace: IA3_CUDA_GEMM_WORKSPACE bytes of device memory,
 * aligned to 256, which stay the caller's. NULL, with the reason in message[n], when it cannot start.
 */
ia3_cuda_gemm *ia3_cuda_gemm_open(bool bf16, cudaStream_t stream, void *workspace, char *message, size_t n);
void ia3_cuda_gemm_close(ia3_cuda_gemm *g);

/*
 * y [rows, n] (=, or += when add) a [rows, k]·op(w): w is [n, k] and op transposes it, or with `backward` w is [k, n]
 * as it lies. Sums are in fp32. act_out: y is of the operands' type, else fp32. False, with the reason in message,
 * when the library refuses.
 */
bool ia3_cuda_gemm_run(ia3_cuda_gemm *g, void *y, const void *a, const void *w, int rows, int n, int k,
                       bool backward, bool act_out, bool add, const char **message);

#endif
