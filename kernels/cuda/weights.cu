/*
 * weights.cu
 *     A model's weights on the CUDA device, and matrix products with them.
 *
 * Weights are stored as in the checkpoint, row-major [out, in]. With this layout cuBLASLt computes both y = a·Wᵀ and
 * da = dy·W, so the backward pass needs no second copy; it also computes the gradient dyᵀ·a. Other storage types are converted on the GPU, piece by piece.
 */
#include "cuda.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

namespace {

enum { THREADS = 256 };
const size_t PIECE = (size_t) 16 << 20; /* elements converted at a time */

__device__ __forceinline__ float
stored(const void *from, size_t i, ia3_dtype type)
{
    if (type == IA3_F32)
        return ((const float *) from)[i];
    if (type == IA3_F64)
        return (float) ((const double *) from)[i];
    uint16_t h = ((const uint16_t *) from)[i];
    return type == IA3_BF16 ? ia3_bf16_low(h) : ia3_f16_to_f32(h);
}

__global__ void
__launch_bounds__(THREADS) convert_kernel(void *to, const void *from, size_t n, ia3_dtype type, bool bf16)
{
    for (size_t i = (size_t) blockIdx.x * THREADS + threadIdx.x; i < n; i += (size_t) gridDim.x * THREADS) {
        float v = stored(from, i, type);
        if (bf16)
            ((uint16_t *) to)[i] = (uint16_t) ia3_pack_bf16(v, 0.0f);
        else
            ((float *) to)[i] = v;
    }
}

/* Converts n elements in device memory. */
void
convert(ia3_cuda *cuda, void *to, const void *from, size_t n, ia3_dtype type, bool bf16)
{
    const size_t blocks = (n + THREADS - 1) / THREADS;
    if (n > 0)
        IA3_LAUNCH(convert_kernel, (unsigned) (blocks < 4096 ? blocks : 4096), THREADS, 0, cuda->stream, to,
                   from, n, type, bf16);
}

/* Copies a host tensor to `to` as bf16 or fp32. False when there is no memory for a temporary piece. */
bool
copy_tensor(ia3_cuda *cuda, char *to, const ia3_host_tensor *t, bool bf16)
{
    const size_t n = (size_t) t->rows * (size_t) t->cols, size = ia3_dtype_size(t->dtype);
    if (t->transposed) {
        void *rows = malloc(n * size);
        if (!rows)
            return false;
        ia3_tensor_tile(t, 0, t->rows, 0, t->cols, rows);
        const ia3_host_tensor plain = {rows, t->dtype, t->rows, t->cols, false};
        bool ok = copy_tensor(cuda, to, &plain, bf16);
        free(rows);
        return ok;
    }
    if (t->dtype == (bf16 ? IA3_BF16 : IA3_F32)) {
        ia3_cuda_upload(&cuda->base, to, t->data, n * size);
        return true;
    }
    const size_t piece = n < PIECE ? n : PIECE;
    void *raw = ia3_cuda_alloc(&cuda->base, piece * size);
    if (!raw)
        return false;
    for (size_t at = 0; at < n; at += piece) {
        size_t now = n - at < piece ? n - at : piece;
        ia3_cuda_upload(&cuda->base, raw, (const char *) t->data + at * size, now * size);
        convert(cuda, to + at * (bf16 ? 2 : 4), raw, now, t->dtype, bf16);
    }
    ia3_cuda_free(&cuda->base, raw);
    return true;
}

/* Allocates an array of the parts stacked row by row, as bf16 or fp32. NULL after filling err. */
void *
stack(ia3_cuda *cuda, const ia3_host_tensor *parts, int n_parts, bool bf16, size_t *bytes, ia3_error *err)
{
    const size_t size = bf16 ? 2 : 4;
    size_t n = 0, at = 0;
    for (int i = 0; i < n_parts; i++)
        n += (size_t) parts[i].rows * (size_t) parts[i].cols;
    *bytes = n * size;
    char *data = (char *) ia3_cuda_alloc(&cuda->base, *bytes);
    bool ok = data != NULL;
    for (int i = 0; ok && i < n_parts; i++) {
        ok = copy_tensor(cuda, data + at, &parts[i], bf16);
        at += (size_t) parts[i].rows * (size_t) parts[i].cols * size;
    }
    if (ok)
        return data;
    ia3_cuda_free(&cuda->base, data);
    ia3_cuda_no_memory(cuda, err, "the backbone's weights", *bytes);
    return NULL;
}

/* A matrix without memory for its elements; NULL after filling err. */
ia3_cuda_matrix *
new_matrix(int64_t out, int64_t in, ia3_error *err)
{
    if (out <= 0 || in <= 0 || out > INT32_MAX || in > INT32_MAX) {
        ia3_fail(err, IA3_E_BAD_CHECKPOINT, "weight matrix of %lld by %lld is not supported", (long long) out,
                 (long long) in);
        return NULL;
    }
    ia3_cuda_matrix *m = (ia3_cuda_matrix *) calloc(1, sizeof *m);
    if (!m) {
        ia3_fail(err, IA3_E_MEMORY, "out of memory");
        return NULL;
    }
    m->base.out = (int) out;
    m->base.in = (int) in;
    return m;
}

} /* namespace */

ia3_matrix *
ia3_cuda_matrix_create(ia3_device *dev, const ia3_host_tensor *parts, int n_parts, ia3_error *err)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    int64_t out = 0;
    for (int i = 0; i < n_parts; i++) {
        out += parts[i].rows;
        if (parts[i].cols != parts[0].cols) {
            ia3_fail(err, IA3_E_INTERNAL, "stacked weights have different widths");
            return NULL;
        }
    }
    ia3_cuda_matrix *m = new_matrix(out, parts[0].cols, err);
    if (!m)
        return NULL;
    m->data = stack(cuda, parts, n_parts, cuda->bf16, &m->base.bytes, err);
    if (!m->data) {
        free(m);
        return NULL;
    }
    return &m->base;
}

void
ia3_cuda_matrix_free(ia3_device *dev, ia3_matrix *matrix)
{
    ia3_cuda_matrix *m = (ia3_cuda_matrix *) matrix;
    if (!m)
        return;
    ia3_cuda_free(dev, m->data);
    free(m);
}

bool
ia3_cuda_matrix_prepare_backward(ia3_device *, ia3_matrix *, ia3_error *)
{
    return true;
}

void
ia3_cuda_matrix_release_backward(ia3_device *, ia3_matrix *)
{
}

void *
ia3_cuda_table_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err)
{
    size_t bytes;
    return stack((ia3_cuda *) dev, t, 1, ((ia3_cuda *) dev)->bf16, &bytes, err);
}

float *
ia3_cuda_vector_create(ia3_device *dev, const ia3_host_tensor *t, ia3_error *err)
{
    size_t bytes;
    return (float *) stack((ia3_cuda *) dev, t, 1, false, &bytes, err);
}

/* --- weights that are trained --- */

void *
ia3_cuda_table_from_values(ia3_device *dev, const float *values, int rows, int cols, ia3_error *err)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const size_t n = (size_t) rows * (size_t) cols, bytes = n * cuda->act_size;
    void *table = ia3_cuda_alloc(dev, bytes);
    if (!table) {
        ia3_cuda_no_memory(cuda, err, "the backbone's weights", bytes);
        return NULL;
    }
    ia3_cuda_table_update(dev, table, values, n);
    return table;
}

ia3_matrix *
ia3_cuda_matrix_from_values(ia3_device *dev, const float *values, int out, int in, ia3_error *err)
{
    ia3_cuda_matrix *m = new_matrix(out, in, err);
    if (!m)
        return NULL;
    m->data = ia3_cuda_table_from_values(dev, values, out, in, err);
    if (!m->data) {
        free(m);
        return NULL;
    }
    m->base.bytes = (size_t) out * (size_t) in * ((ia3_cuda *) dev)->act_size;
    return &m->base;
}

void
ia3_cuda_matrix_update(ia3_device *dev, ia3_matrix *matrix, const float *values)
{
    ia3_cuda_matrix *m = (ia3_cuda_matrix *) matrix;
    ia3_cuda_table_update(dev, m->data, values, (size_t) m->base.out * (size_t) m->base.in);
}

void
ia3_cuda_table_update(ia3_device *dev, void *table, const float *values, size_t n)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (cuda->bf16)
        convert(cuda, table, values, n, IA3_F32, true);
    else
        ia3_cuda_copy(dev, table, values, n * sizeof *values);
}

/* --- products --- */

static const char *const form_names[] = {"forth", "back", "gradient"};

static ia3_cuda_gemm_result
measured_product(ia3_cuda *cuda, void *y, const void *a, const void *w, int rows, int n, int k,
                 ia3_cuda_gemm_form form, ia3_out out, const char **message)
{
    char name[64] = "";
    if (ia3_cuda_profiling)
        snprintf(name, sizeof name, "product of %d rows, %d to %d, %s%s", rows, k, n, form_names[form],
                 out == IA3_OUT_ADD_F32 ? ", added"
                 : out == IA3_OUT_F32   ? ", fp32"
                                        : "");
    const ia3_cuda_span span(name, cuda->stream);
    return ia3_cuda_gemm_run(cuda->gemm, y, a, w, rows, n, k, form, out == IA3_OUT_ACT,
                             out == IA3_OUT_ADD_F32, message);
}

static void
product(ia3_device *dev, void *y, const void *a, const void *w, int rows, int n, int k,
        ia3_cuda_gemm_form form, ia3_out out)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    const char *message = "";
    switch (cuda->plain ? IA3_CUDA_GEMM_REFUSED
                        : measured_product(cuda, y, a, w, rows, n, k, form, out, &message)) {
    case IA3_CUDA_GEMM_DONE:
        return;
    case IA3_CUDA_GEMM_REFUSED:
        if (cuda->report)
            fprintf(stderr, "refused: %d rows, %d by %d, %s, %s, result %d: %s\n", rows, k, n,
                    form_names[form], cuda->bf16 ? "bfloat16" : "float32", (int) out, message);
        ia3_cuda_plain_product(cuda, y, a, w, rows, n, k, form, out);
        return;
    case IA3_CUDA_GEMM_FAILED:
        break;
    }
    /* usually the library only reports that the device is lost; then CUDA has the reason */
    ia3_cuda_check(cuda, cudaStreamSynchronize(cuda->stream), "matrix product");
    fprintf(stderr, "ERROR: GPU %d failed in a matrix product of %d rows, %d by %d: %s\n", cuda->index, rows,
            k, n, message);
    fflush(stderr);
    _exit(1);
}

void
ia3_cuda_matmul(ia3_device *dev, void *y, const void *a, int rows, ia3_matrix *w, ia3_out out)
{
    if (rows > 0)
        product(dev, y, a, ((const ia3_cuda_matrix *) w)->data, rows, w->out, w->in, IA3_CUDA_GEMM_FORTH,
                out);
}

void
ia3_cuda_matmul_bwd(ia3_device *dev, void *da, const void *dy, int rows, ia3_matrix *w, ia3_out out)
{
    if (rows > 0)
        product(dev, da, dy, ((const ia3_cuda_matrix *) w)->data, rows, w->in, w->out, IA3_CUDA_GEMM_BACK,
                out);
}

void
ia3_cuda_matmul_grad(ia3_device *dev, float *dw, const void *dy, const void *a, int rows, int out, int in)
{
    if (rows > 0)
        product(dev, dw, dy, a, out, in, rows, IA3_CUDA_GEMM_GRAD, IA3_OUT_ADD_F32);
}
