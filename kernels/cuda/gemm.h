/*
 * gemm.h
 *     Matrix products of row-major matrices. gemm.cu implements them with cuBLASLt; the simulator has its
 *     own implementation (test/cudasim/gemm_sim.cpp).
 */
#ifndef IA3_CUDA_GEMM_H
#define IA3_CUDA_GEMM_H

#include "portable.cuh"

typedef struct ia3_cuda_gemm ia3_cuda_gemm;

/* Bytes of device memory that matrix products work in, as NVIDIA recommends for sm_90. */
static const size_t IA3_CUDA_GEMM_WORKSPACE = (size_t) 32 << 20;

/*
 * Initialises matrix products whose operands are bfloat16 (if bf16) or float32 (never TF32). workspace:
 * IA3_CUDA_GEMM_WORKSPACE bytes of device memory, 256-byte aligned, which the caller frees later. NULL on failure, with
 * the reason in message[n].
 */
ia3_cuda_gemm *ia3_cuda_gemm_open(bool bf16, cudaStream_t stream, void *workspace, char *message, size_t n);
void ia3_cuda_gemm_close(ia3_cuda_gemm *g);

typedef enum ia3_cuda_gemm_result {
    IA3_CUDA_GEMM_DONE,
    IA3_CUDA_GEMM_REFUSED, /* this shape is not supported; nothing was computed */
    IA3_CUDA_GEMM_FAILED
} ia3_cuda_gemm_result;

/* Which operands are transposed. */
typedef enum ia3_cuda_gemm_form {
    IA3_CUDA_GEMM_FORTH, /* a·wᵀ, a [rows, k], w [n, k]: the product with a weight [out, in] */
    IA3_CUDA_GEMM_BACK,  /* a·w, a [rows, k], w [k, n]: its backward pass */
    IA3_CUDA_GEMM_GRAD /* aᵀ·w, a [k, rows], w [k, n]: the gradient of the weight; the rows of a batch are k */
} ia3_cuda_gemm_form;

/*
 * Computes y [rows, n], or adds to it if `add`. Sums are in fp32. y has the operands' type if act_out, else fp32. If the
 * result is not IA3_CUDA_GEMM_DONE, *message is the reason.
 */
ia3_cuda_gemm_result ia3_cuda_gemm_run(ia3_cuda_gemm *g, void *y, const void *a, const void *w, int rows,
                                       int n, int k, ia3_cuda_gemm_form form, bool act_out, bool add,
                                       const char **message);

#endif
