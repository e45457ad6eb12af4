/*
 * device_cuda.cu
 *     Opens and closes the CUDA device, and ends the process when the device fails.
 *
 * After an error in a kernel, a copy, a matrix product or an allocation (other than too little memory) the CUDA
 * context is lost for good; only a new process can create another. So the device ends its process with a message,
 * which the supervisor reads before it starts the engine again. When opening a device fails, the error that CUDA
 * remembers is cleared, so that a later launch does not take it for its own.
 */
#include "attention.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern "C" {
#include "engine/device/device_module.h"
}

void
ia3_cuda_check(ia3_cuda *cuda, cudaError_t status, const char *what)
{
    if (status == cudaSuccess)
        return;
    fprintf(stderr, "ERROR: GPU %d failed: %s (%s)\n", cuda->index, cudaGetErrorString(status), what);
    fflush(stderr);
    _exit(1);
}

void
ia3_cuda_launched(cudaError_t status, const char *kernel)
{
    int index = 0;
    if (status == cudaSuccess)
        return;
    (void) cudaGetDevice(&index);
    fprintf(stderr, "ERROR: GPU %d failed: %s (launch of %s)\n", index, cudaGetErrorString(status), kernel);
    fflush(stderr);
    _exit(1);
}

static void
cuda_close(ia3_device *dev)
{
    ia3_cuda *cuda = (ia3_cuda *) dev;
    if (!cuda)
        return;
    if (cuda->stream)
        (void) cudaStreamSynchronize(cuda->stream);
    ia3_cuda_profile_print();
    if (cuda->gemm)
        ia3_cuda_gemm_close(cuda->gemm);
    if (cuda->workspace)
        ia3_cuda_free(dev, cuda->workspace);
    ia3_cuda_memory_close(cuda);
    if (cuda->stream)
        (void) cudaStreamDestroy(cuda->stream);
    free(cuda);
}

/* Sets the function's members by name; C++17 has no designated initialisers. */
static ia3_device_ops
make_ops(void)
{
    ia3_device_ops o;
    memset(&o, 0, sizeof o);
    o.close = cuda_close;
    o.alloc = ia3_cuda_alloc;
    o.free = ia3_cuda_free;
    o.arena_alloc = ia3_cuda_arena_alloc;
    o.arena_mark = ia3_cuda_arena_mark;
    o.arena_release = ia3_cuda_arena_release;
    o.arena_trim = ia3_cuda_arena_trim;
    o.upload = ia3_cuda_upload;
    o.download = ia3_cuda_download;
    o.zero = ia3_cuda_zero;
    o.memory_used = ia3_cuda_memory_used;
    o.matrix_create = ia3_cuda_matrix_create;
    o.matrix_free = ia3_cuda_matrix_free;
    o.matrix_prepare_backward = ia3_cuda_matrix_prepare_backward;
    o.matrix_release_backward = ia3_cuda_matrix_release_backward;
    o.table_create = ia3_cuda_table_create;
    o.vector_create = ia3_cuda_vector_create;
    o.matrix_from_values = ia3_cuda_matrix_from_values;
    o.table_from_values = ia3_cuda_table_from_values;
    o.matrix_update = ia3_cuda_matrix_update;
    o.table_update = ia3_cuda_table_update;
    o.copy = ia3_cuda_copy;
    o.matmul = ia3_cuda_matmul;
    o.matmul_bwd = ia3_cuda_matmul_bwd;
    o.embed = ia3_cuda_embed;
    o.rmsnorm = ia3_cuda_rmsnorm;
    o.rmsnorm_bwd = ia3_cuda_rmsnorm_bwd;
    o.add_norm = ia3_cuda_add_norm;
    o.norm_bwd_drop = ia3_cuda_norm_bwd_drop;
    o.add_dropout = ia3_cuda_add_dropout;
    o.dropout_f32 = ia3_cuda_dropout_f32;
    o.dropout_act = ia3_cuda_dropout_act;
    o.dropout_f32_to_act = ia3_cuda_dropout_f32_to_act;
    o.attention = ia3_cuda_attention;
    o.attention_bwd = ia3_cuda_attention_bwd;
    o.gated_act = ia3_cuda_gated_act;
    o.gated_act_bwd = ia3_cuda_gated_act_bwd;
    o.vocab_logprobs = ia3_cuda_vocab_logprobs;
    o.vocab_logprobs_bwd = ia3_cuda_vocab_logprobs_bwd;
    o.adafactor = ia3_cuda_adafactor;
    o.matmul_grad = ia3_cuda_matmul_grad;
    o.embed_grad = ia3_cuda_embed_grad;
    o.rmsnorm_grad = ia3_cuda_rmsnorm_grad;
    o.bias_expand = ia3_cuda_bias_expand;
    o.bias_table_grad = ia3_cuda_bias_table_grad;
    o.mask_grad = ia3_cuda_mask_grad;
    o.add_squares = ia3_cuda_add_squares;
    o.scatter_add = ia3_cuda_scatter_add;
    o.add_row = ia3_cuda_add_row;
    o.add_row_bwd = ia3_cuda_add_row_bwd;
    o.scale_row = ia3_cuda_scale_row;
    o.scale_row_bwd = ia3_cuda_scale_row_bwd;
    o.multiply = ia3_cuda_multiply;
    o.low_rank = ia3_cuda_low_rank;
    o.low_rank_bwd = ia3_cuda_low_rank_bwd;
    o.bottleneck = ia3_cuda_bottleneck;
    o.bottleneck_bwd = ia3_cuda_bottleneck_bwd;
    o.phm = ia3_cuda_phm;
    o.phm_bwd = ia3_cuda_phm_bwd;
    o.put_rows = ia3_cuda_put_rows;
    o.put_rows_bwd = ia3_cuda_put_rows_bwd;
    o.dense = ia3_cuda_dense;
    o.dense_bwd = ia3_cuda_dense_bwd;
    return o;
}

static const ia3_device_ops cuda_ops = make_ops();

/* Checks that GPU `index` exists and can be used; fills its properties. */
static bool
find_gpu(int index, cudaDeviceProp *p, ia3_error *err)
{
    int n = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    (void) cudaGetLastError();
    if (status == cudaErrorNoDevice || (status == cudaSuccess && n == 0)) {
        ia3_fail(err, IA3_E_INVALID, "there is no GPU");
        return ia3_fail_hint(err, "Use \"cpu\", or use \"auto\" to take a GPU only if there is one.");
    }
    if (status != cudaSuccess) {
        ia3_fail(err, IA3_E_INVALID, "the GPU cannot be used");
        ia3_fail_detail(err, "CUDA reported: %s.", cudaGetErrorString(status));
        return ia3_fail_hint(err, "Check the NVIDIA driver, or use \"cpu\".");
    }
    if (index >= n) {
        ia3_fail(err, IA3_E_INVALID, "there is no GPU %d", index);
        return ia3_fail_detail(
            err, n == 1 ? "There is one GPU, number 0." : "There are %d GPUs, numbered from 0.", n);
    }
    status = cudaSetDevice(index);
    if (status ==
        cudaSuccess) /* a thread that waits for the GPU sleeps and leaves its core to the database */
        status = cudaSetDeviceFlags(cudaDeviceScheduleBlockingSync);
    if (status == cudaSuccess)
        status = cudaGetDeviceProperties(p, index);
    if (status != cudaSuccess) {
        (void) cudaGetLastError();
        ia3_fail(err, IA3_E_INVALID, "GPU %d cannot be used", index);
        return ia3_fail_detail(err, "CUDA reported: %s.", cudaGetErrorString(status));
    }
    if (p->major < 8) {
        ia3_fail(err, IA3_E_INVALID, "GPU %d is not supported", index);
        return ia3_fail_detail(err,
                               "It is a %s with compute capability %d.%d; 8.0 (Ampere) or later is required.",
                               p->name, p->major, p->minor);
    }
    return true;
}

/* Fills a GPU with tiles of products several times over, and takes 250 MB for the activations of T0-3B. */
enum { FF_ROWS = 8192 };

static bool
start(ia3_cuda *cuda, size_t memory_limit, ia3_error *err)
{
    char message[128] = "";
    cudaError_t status = cudaStreamCreateWithFlags(&cuda->stream, cudaStreamNonBlocking);
    if (status != cudaSuccess) {
        (void) cudaGetLastError();
        ia3_fail(err, status == cudaErrorMemoryAllocation ? IA3_E_MEMORY : IA3_E_INVALID,
                 "GPU %d cannot be used", cuda->index);
        return ia3_fail_detail(err, "CUDA reported: %s.", cudaGetErrorString(status));
    }
    const char *products = getenv("IA3_CUDA_PRODUCTS");
    cuda->plain = products && strcmp(products, "plain") == 0;
    cuda->report = products && strcmp(products, "report") == 0;
    ia3_cuda_profile_open();
    if (!ia3_cuda_memory_open(cuda, memory_limit, err))
        return false;
    cuda->workspace = ia3_cuda_alloc(&cuda->base, IA3_CUDA_GEMM_WORKSPACE);
    if (!cuda->workspace)
        return ia3_cuda_no_memory(cuda, err, "the workspace of matrix products", IA3_CUDA_GEMM_WORKSPACE);
    cuda->gemm = ia3_cuda_gemm_open(cuda->bf16, cuda->stream, cuda->workspace, message, sizeof message);
    if (!cuda->gemm) {
        ia3_fail(err, IA3_E_INVALID, "could not initialize cuBLASLt on GPU %d", cuda->index);
        return ia3_fail_detail(err, "cuBLASLt reported: %s.", message);
    }
    return true;
}

static ia3_device *
cuda_open(int index, ia3_dtype dtype, size_t memory_limit, ia3_error *err)
{
    cudaDeviceProp p;
    if (dtype != IA3_AUTO && dtype != IA3_F32 && dtype != IA3_BF16) {
        ia3_fail(err, IA3_E_INVALID, "a GPU supports only bfloat16 and float32");
        return NULL;
    }
    if (!find_gpu(index, &p, err))
        return NULL;
    ia3_cuda *cuda = (ia3_cuda *) calloc(1, sizeof *cuda);
    if (!cuda) {
        ia3_fail(err, IA3_E_MEMORY, "out of memory");
        return NULL;
    }
    cuda->base.ops = &cuda_ops;
    cuda->bf16 = dtype != IA3_F32;
    cuda->base.dtype = cuda->base.weights = cuda->bf16 ? IA3_BF16 : IA3_F32;
    cuda->base.turn = (int64_t) 1 << 33;
    cuda->base.ff_rows = FF_ROWS;
    cuda->base.keys_apart = true;
    cuda->base.max_d_kv = ia3_cuda_generic_max_d_kv(p.sharedMemPerBlockOptin);
    cuda->act_size = ia3_dtype_size(cuda->base.dtype);
    cuda->index = index;
    snprintf(cuda->base.name, sizeof cuda->base.name, "cuda:%d", index);
    snprintf(cuda->base.description, sizeof cuda->base.description, "%.64s, %zu GB, compute capability %d.%d",
             p.name, (p.totalGlobalMem + ((size_t) 1 << 29)) >> 30, p.major, p.minor);
    if (!start(cuda, memory_limit, err)) {
        cuda_close(&cuda->base);
        return NULL;
    }
    return &cuda->base;
}

static int
cuda_count(void)
{
    int n = 0;
    cudaError_t status = cudaGetDeviceCount(&n);
    (void) cudaGetLastError();
    return status == cudaSuccess ? n : 0;
}

static const ia3_device_module module = {IA3_DEVICE_ABI, sizeof(ia3_device_ops), sizeof(ia3_device),
                                         cuda_open, cuda_count};

extern "C" __attribute__((visibility("default"))) const ia3_device_module *
ia3_cuda_module(void)
{
    return &module;
}
