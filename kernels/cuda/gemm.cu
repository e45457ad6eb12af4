/*
 * gemm.cu
 *     Matrix products with cuBLASLt.
 *
 * cuBLASLt stores matrices by columns: it sees our row-major y [rows, n] as a matrix of n rows and `rows` columns, so
 * we let it compute yᵀ = op(w)·op(a)ᵀ. Which operands are transposed is the only difference between the forward pass, the
 * backward pass and the gradient of a weight.
 *
 * The algorithms for a shape are requested once and kept in a hash table, where a shape may have one of a few places;
 * if others have all of them, it replaces one. Batches have any number of rows, so batches of similar size share their
 * algorithms: the choice depends on how well tiles fit, not on alignment, which the number of rows does not change (of the
 * gradient of a weight, they are the terms of the sums). The
 * algorithms are tried from the best one on until one accepts the actual number of rows. If none does, others are
 * requested for that number; if none of these does either, the caller has to compute the product without cuBLASLt. So
 * the bits of a product depend on its shape and alignment, never on what was computed before. Sums are always in fp32,
 * even where a sum is split, and results do not depend on scheduling.
 *
 * Adding to the residual stream is fused (beta = 1). The other operations that follow a matrix product are not: no
 * epilogue of cuBLASLt multiplies the two halves of a row (gated activations), scales by a vector that differs from row
 * to row or draws our dropout mask, and T5 has no bias to add. These operations are separate kernels (gated.cu,
 * dropout.cu, attention).
 */
#include "gemm.h"

#include <cublasLt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace {

enum { PLANS = 4096, PLACES = 4, ALGORITHMS = 8, MAX_ALIGNMENT = 256 };

typedef struct plan_key {
    int rows, n, k; /* in the table, the rows of the batch are rounded up by rounded_rows() */
    unsigned form : 2, act_out : 1, add : 1;
    unsigned y_alignment : 9, a_alignment : 9, w_alignment : 9;
} plan_key;

typedef struct plan {
    bool used;
    plan_key key;
    cublasLtMatmulDescOpaque_t operation;
    int n_algorithms;                            /* 0: cuBLASLt refuses this shape */
    cublasLtMatmulAlgo_t algorithms[ALGORITHMS]; /* the best first */
} plan;

/* The part of a product's description that depends on the actual number of rows. */
typedef struct layouts {
    cublasLtMatrixLayoutOpaque_t w, a, y;
} layouts;

int
rounded_rows(int rows)
{
    int step = 8;
    while (step < 128 && step < rows)
        step *= 2;
    return rows > INT32_MAX - step ? rows : (rows + step - 1) / step * step;
}

/* The largest power of two, up to MAX_ALIGNMENT, that divides the address p. */
unsigned
alignment_of(const void *p)
{
    unsigned alignment = MAX_ALIGNMENT;
    while ((uintptr_t) p % alignment != 0)
        alignment /= 2;
    return alignment;
}

unsigned
place_of(const plan_key *key)
{
    uint64_t h = 1469598103934665603u; /* FNV-1a */
    const unsigned char *p = (const unsigned char *) key;
    for (size_t i = 0; i < sizeof *key; i++)
        h = (h ^ p[i]) * 1099511628211u;
    return (unsigned) (h ^ h >> 32) % PLANS;
}

} /* namespace */

struct ia3_cuda_gemm {
    cublasLtHandle_t handle;
    cudaStream_t stream;
    void *workspace;
    bool bf16;
    plan *plans; /* [PLANS] */
};

namespace {

cublasStatus_t
describe(plan *p)
{
    const cublasOperation_t of_w = p->key.form == IA3_CUDA_GEMM_FORTH ? CUBLAS_OP_T : CUBLAS_OP_N;
    const cublasOperation_t of_a = p->key.form == IA3_CUDA_GEMM_GRAD ? CUBLAS_OP_T : CUBLAS_OP_N;
    /* 32F is true fp32; TF32 would be a different constant */
    cublasStatus_t s = cublasLtMatmulDescInit(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(&p->operation, CUBLASLT_MATMUL_DESC_TRANSA, &of_w, sizeof of_w);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulDescSetAttribute(&p->operation, CUBLASLT_MATMUL_DESC_TRANSB, &of_a, sizeof of_a);
    return s;
}

cublasStatus_t
lay_out(const ia3_cuda_gemm *g, const plan_key *key, int rows, int terms, layouts *l)
{
    const cudaDataType_t act = g->bf16 ? CUDA_R_16BF : CUDA_R_32F, out = key->act_out ? act : CUDA_R_32F;
    const uint64_t m = (uint64_t) rows, n = (uint64_t) key->n, k = (uint64_t) terms;
    cublasStatus_t s = key->form == IA3_CUDA_GEMM_FORTH
                           ? cublasLtMatrixLayoutInit(&l->w, act, k, n, (int64_t) k)
                           : cublasLtMatrixLayoutInit(&l->w, act, n, k, (int64_t) n);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = key->form == IA3_CUDA_GEMM_GRAD ? cublasLtMatrixLayoutInit(&l->a, act, m, k, (int64_t) m)
                                            : cublasLtMatrixLayoutInit(&l->a, act, k, m, (int64_t) k);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatrixLayoutInit(&l->y, out, n, m, (int64_t) n);
    return s;
}

cublasStatus_t
set_preference(cublasLtMatmulPreference_t pref, const plan_key *key)
{
    const size_t workspace = IA3_CUDA_GEMM_WORKSPACE;
    const uint32_t reduction = CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE;
    const uint32_t w = key->w_alignment, a = key->a_alignment, y = key->y_alignment;
    const struct {
        cublasLtMatmulPreferenceAttributes_t name;
        const void *value;
        size_t size;
    } settings[] = {
        {CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &workspace, sizeof workspace},
        {CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, &reduction, sizeof reduction},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &w, sizeof w},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a, sizeof a},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &y, sizeof y},
        {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &y, sizeof y},
    };
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        cublasStatus_t s =
            cublasLtMatmulPreferenceSetAttribute(pref, settings[i].name, settings[i].value, settings[i].size);
        if (s != CUBLAS_STATUS_SUCCESS)
            return s;
    }
    return CUBLAS_STATUS_SUCCESS;
}

/*
 * Whether the error only means that an algorithm or a shape is not supported, so that another may be tried. Nothing has
 * been launched then.
 */
bool
is_refusal(cublasStatus_t s)
{
    return s == CUBLAS_STATUS_NOT_SUPPORTED || s == CUBLAS_STATUS_INVALID_VALUE ||
           s == CUBLAS_STATUS_ARCH_MISMATCH || s == CUBLAS_STATUS_INTERNAL_ERROR;
}

/* Fills in the plan for its key. That no algorithm is found is no error. */
cublasStatus_t
make_plan(const ia3_cuda_gemm *g, plan *p)
{
    cublasLtMatmulPreferenceOpaque_t pref;
    cublasLtMatmulHeuristicResult_t results[ALGORITHMS];
    layouts l;
    int found = 0;
    cublasStatus_t s = describe(p);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = lay_out(g, &p->key, p->key.rows, p->key.k, &l);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = cublasLtMatmulPreferenceInit(&pref);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = set_preference(&pref, &p->key);
    if (s == CUBLAS_STATUS_SUCCESS) {
        s = cublasLtMatmulAlgoGetHeuristic(g->handle, &p->operation, &l.w, &l.a, &l.y, &l.y, &pref,
                                           ALGORITHMS, results, &found);
        if (is_refusal(s))
            s = CUBLAS_STATUS_SUCCESS, found = 0;
    }
    p->n_algorithms = 0;
    for (int i = 0; s == CUBLAS_STATUS_SUCCESS && i < found; i++)
        if (results[i].state == CUBLAS_STATUS_SUCCESS && results[i].workspaceSize <= IA3_CUDA_GEMM_WORKSPACE)
            p->algorithms[p->n_algorithms++] = results[i].algo;
    p->used = s == CUBLAS_STATUS_SUCCESS;
    return s;
}

} /* namespace */

ia3_cuda_gemm *
ia3_cuda_gemm_open(bool bf16, cudaStream_t stream, void *workspace, char *message, size_t n)
{
    ia3_cuda_gemm *g = (ia3_cuda_gemm *) calloc(1, sizeof *g);
    plan *plans = (plan *) calloc(PLANS, sizeof *plans);
    if (!g || !plans) {
        free(g);
        free(plans);
        snprintf(message, n, "out of memory");
        return NULL;
    }
    g->bf16 = bf16;
    g->stream = stream;
    g->plans = plans;
    g->workspace = workspace;
    cublasStatus_t s = cublasLtCreate(&g->handle);
    if (s == CUBLAS_STATUS_SUCCESS)
        return g;
    snprintf(message, n, "%s", cublasLtGetStatusString(s));
    (void) cudaGetLastError();
    ia3_cuda_gemm_close(g);
    return NULL;
}

void
ia3_cuda_gemm_close(ia3_cuda_gemm *g)
{
    if (!g)
        return;
    if (g->handle)
        (void) cublasLtDestroy(g->handle);
    free(g->plans);
    free(g);
}

namespace {

/* Runs the first of the plan's algorithms that accepts this number of rows. */
cublasStatus_t
run_plan(const ia3_cuda_gemm *g, plan *p, layouts *l, void *y, const void *a, const void *w)
{
    const float one = 1.0f, beta = p->key.add ? 1.0f : 0.0f;
    cublasStatus_t s = CUBLAS_STATUS_NOT_SUPPORTED;
    for (int i = 0; i < p->n_algorithms && is_refusal(s); i++)
        s = cublasLtMatmul(g->handle, &p->operation, &one, w, &l->w, a, &l->a, &beta, y, &l->y, y, &l->y,
                           &p->algorithms[i], g->workspace, IA3_CUDA_GEMM_WORKSPACE, g->stream);
    return s;
}

/* Finds the plan for this key in the table, making it if there is none. */
cublasStatus_t
find_plan(ia3_cuda_gemm *g, const plan_key *key, plan **found)
{
    const unsigned first = place_of(key);
    plan *p = &g->plans[first]; /* the one to replace if no place is free */
    for (unsigned i = PLACES; i-- > 0;) {
        plan *there = &g->plans[(first + i) % PLANS];
        if (!there->used)
            p = there;
        else if (memcmp(&there->key, key, sizeof *key) == 0) {
            *found = there;
            return CUBLAS_STATUS_SUCCESS;
        }
    }
    *found = p;
    p->used = false;
    memcpy(&p->key, key, sizeof *key);
    return make_plan(g, p);
}

} /* namespace */

ia3_cuda_gemm_result
ia3_cuda_gemm_run(ia3_cuda_gemm *g, void *y, const void *a, const void *w, int rows, int n, int k,
                  ia3_cuda_gemm_form form, bool act_out, bool add, const char **message)
{
    const bool grad = form == IA3_CUDA_GEMM_GRAD;
    plan_key key;
    memset(&key, 0, sizeof key); /* padding too, because keys are compared byte by byte */
    key.rows = grad ? rows : rounded_rows(rows), key.n = n, key.k = grad ? rounded_rows(k) : k;
    key.form = form, key.act_out = act_out, key.add = add;
    key.y_alignment = alignment_of(y), key.a_alignment = alignment_of(a), key.w_alignment = alignment_of(w);
    plan *p;
    layouts l;
    cublasStatus_t s = lay_out(g, &key, rows, k, &l);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = find_plan(g, &key, &p);
    if (s == CUBLAS_STATUS_SUCCESS)
        s = run_plan(g, p, &l, y, a, w);
    if (is_refusal(s) &&
        (key.rows != rows || key.k != k)) { /* make a plan for the actual rows, without keeping it */
        plan exact = {};
        key.rows = rows, key.k = k;
        memcpy(&exact.key, &key, sizeof key);
        s = make_plan(g, &exact);
        if (s == CUBLAS_STATUS_SUCCESS)
            s = run_plan(g, &exact, &l, y, a, w);
    }
    if (is_refusal(s))
        (void) cudaGetLastError();
    *message = cublasLtGetStatusString(s);
    return s == CUBLAS_STATUS_SUCCESS ? IA3_CUDA_GEMM_DONE
           : is_refusal(s)            ? IA3_CUDA_GEMM_REFUSED
                                      : IA3_CUDA_GEMM_FAILED;
}
