/*
 * gemm_sim.cpp
 *     Matrix products of the simulated device (kernels/cuda/gemm.h): plain loops, sums in fp32.
 */
#include "kernels/cuda/gemm.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <vector>

struct ia3_cuda_gemm {
    bool bf16;
    void *workspace;
};

ia3_cuda_gemm *
ia3_cuda_gemm_open(bool bf16, cudaStream_t, void *workspace, char *, size_t)
{
    ia3_cuda_gemm *g = (ia3_cuda_gemm *) malloc(sizeof *g);
    g->bf16 = bf16;
    g->workspace = workspace;
    return g;
}

void
ia3_cuda_gemm_close(ia3_cuda_gemm *g)
{
    free(g);
}

enum { WORKSPACE_USED = 4096, REFUSED_BELOW = 20000 };

static float
load(const void *p, size_t i, bool bf16)
{
    return bf16 ? __uint_as_float((uint32_t) ((const uint16_t *) p)[i] << 16) : ((const float *) p)[i];
}

ia3_cuda_gemm_result
ia3_cuda_gemm_run(ia3_cuda_gemm *g, void *y, const void *a, const void *w, int rows, int n, int k,
                  ia3_cuda_gemm_form form, bool act_out, bool add, const char **message)
{
    *message = "the GPU program failed to execute"; /* the text of cuBLASLt */
    if (!ia3_sim_library_launch())
        return IA3_CUDA_GEMM_FAILED;
    if ((n % 2 || k % 2) && (int64_t) rows * n * k < REFUSED_BELOW) /* so that these are tested as well */
        return IA3_CUDA_GEMM_REFUSED;
    ia3_sim_access open;
    memset(g->workspace, 0x5a, WORKSPACE_USED); /* only matrix products may use it, so fill it with garbage */
    size_t cols = (size_t) n, inner = (size_t) k;
    std::vector<float> b(cols * inner), row(inner), sum(cols); /* b [k, n] */
    for (size_t i = 0; i < inner; i++)
        for (size_t j = 0; j < cols; j++)
            b[i * cols + j] = load(w, form == IA3_CUDA_GEMM_FORTH ? j * inner + i : i * cols + j, g->bf16);
    for (size_t r = 0; r < (size_t) rows; r++) {
        for (size_t j = 0; j < cols; j++)
            sum[j] = 0.0f;
        for (size_t i = 0; i < inner; i++) {
            float x = load(a, form == IA3_CUDA_GEMM_GRAD ? i * (size_t) rows + r : r * inner + i, g->bf16);
            for (size_t j = 0; j < cols; j++)
                sum[j] += x * b[i * cols + j];
        }
        for (size_t j = 0; j < cols; j++) {
            size_t at = r * cols + j;
            if (act_out && g->bf16)
                ((uint16_t *) y)[at] = (uint16_t) ia3_pack_bf16(sum[j], 0.0f);
            else
                ((float *) y)[at] = sum[j] + (add ? ((float *) y)[at] : 0.0f);
        }
    }
    return IA3_CUDA_GEMM_DONE;
}
