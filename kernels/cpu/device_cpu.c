/*
 * device_cpu.c
 *     Opens and closes the CPU device: detects the processor, starts threads and oneDNN.
 */
#include "engine/device/device_cpu.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "bgemm.h"
#include "engine/base/alloc.h"
#include "int8.h"
#include "isa.h"
#include "primitive.h"

/* What a thread's second-level cache holds, or its share of the third level where the second one is small. */
#define CACHE_BYTES ((size_t) 3 << 19)

static const ia3_device_ops cpu_ops;

/* Whether oneDNN can use instructions that multiply bfloat16. Emulating them would be slower than fp32. */
static bool
native_bf16(void)
{
#if defined(__x86_64__)
    unsigned isa = (unsigned) dnnl_get_effective_cpu_isa();
    return (isa & dnnl_cpu_isa_avx512_core_bf16) == dnnl_cpu_isa_avx512_core_bf16;
#else
    return false;
#endif
}

static int
available_cores(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0 && CPU_COUNT(&set) > 0)
        return CPU_COUNT(&set);
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    return n > 0 ? (int) n : 1;
}

#define QUOTE2(v) #v
#define QUOTE(v)  QUOTE2(v)

/* Fills the description, for example "AMD EPYC 9B45, avx512bf16, 2 threads, oneDNN 2.6.3". */
static void
describe(ia3_cpu *cpu)
{
    char model[80] = "processor", line[256];
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (!colon || strncmp(line, "model name", 10) != 0)
            continue;
        colon[strcspn(colon, "\n")] = 0;
        snprintf(model, sizeof model, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (f)
        fclose(f);
    const dnnl_version_t *v = dnnl_version();
    snprintf(cpu->base.description, sizeof cpu->base.description, "%.64s, %s, %d thread%s, oneDNN %d.%d.%d",
             model, QUOTE(IA3_CPU_VARIANT), cpu->threads, cpu->threads == 1 ? "" : "s", v->major, v->minor,
             v->patch);
}

static void
cpu_close(ia3_device *dev)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (!cpu)
        return;
    ia3_shapes_free(cpu);
    for (int i = 0; cpu->streams && i < cpu->threads; i++)
        if (cpu->streams[i])
            dnnl_stream_destroy(cpu->streams[i]);
    free(cpu->streams);
    if (cpu->engine)
        dnnl_engine_destroy(cpu->engine);
    ia3_pool_free(cpu->pool);
    ia3_cpu_arena_destroy(cpu);
    pthread_mutex_destroy(&cpu->slab_mutex);
    free(cpu);
}

static bool
start(ia3_cpu *cpu, int threads, ia3_error *err)
{
    cpu->pool = ia3_pool_create(threads);
    if (!cpu->pool)
        return ia3_fail(err, IA3_E_MEMORY, "could not start %d threads", threads);
    cpu->threads = threads;
    cpu->streams = ia3_alloc_array((size_t) threads, sizeof *cpu->streams);
    if (dnnl_engine_create(&cpu->engine, dnnl_cpu, 0) != dnnl_success)
        return ia3_fail(err, IA3_E_INTERNAL, "could not start oneDNN");
    for (int i = 0; i < threads; i++)
        if (dnnl_stream_create(&cpu->streams[i], cpu->engine, dnnl_stream_default_flags) != dnnl_success)
            return ia3_fail(err, IA3_E_INTERNAL, "could not start oneDNN");
    return true;
}

#define OPEN_OF2(v) ia3_cpu_open_##v
#define OPEN_OF(v)  OPEN_OF2(v)

/* The function that ia3_cpu_open (isa.c) calls, for the variant that this file is compiled for. */
ia3_device *
OPEN_OF(IA3_CPU_VARIANT)(ia3_dtype dtype, int threads, size_t memory_limit, ia3_error *err)
{
    const bool own = ia3_bgemm_available(), native = own || native_bf16();
    if (dtype == IA3_AUTO)
        dtype = native ? IA3_BF16 : IA3_F32;
    ia3_cpu *cpu = ia3_alloc(sizeof *cpu);
    cpu->int8 = dtype == IA3_INT8 ? ia3_int8_best_form() : NULL;
    cpu->weights_bf16 = dtype != IA3_F32;
    cpu->weight_size = cpu->weights_bf16 ? sizeof(uint16_t) : sizeof(float);
    cpu->bf16 = cpu->weights_bf16 && native;
    cpu->own_bf16 = cpu->bf16 && own;
    cpu->base.ops = &cpu_ops;
    cpu->base.dtype = cpu->bf16 ? IA3_BF16 : IA3_F32;
    cpu->base.weights = dtype;
    cpu->act_size = ia3_dtype_size(cpu->base.dtype);
    cpu->limit = memory_limit;
    pthread_mutex_init(&cpu->slab_mutex, NULL);
    snprintf(cpu->base.name, sizeof cpu->base.name, "cpu");
    if (!start(cpu, threads > 0 ? threads : available_cores(), err)) {
        cpu_close(&cpu->base);
        return NULL;
    }
    cpu->base.cache = (size_t) cpu->threads * CACHE_BYTES;
    cpu->base.turn = (int64_t) (cpu->threads < 8 ? cpu->threads : 8)
                     << 29; /* more threads than heads do not help */
    describe(cpu);
    return &cpu->base;
}

static const ia3_device_ops cpu_ops = {
    .close = cpu_close,
    .alloc = ia3_cpu_alloc,
    .free = ia3_cpu_free,
    .arena_alloc = ia3_cpu_arena_alloc,
    .arena_mark = ia3_cpu_arena_mark,
    .arena_release = ia3_cpu_arena_release,
    .arena_trim = ia3_cpu_arena_trim,
    .upload = ia3_cpu_upload,
    .download = ia3_cpu_download,
    .zero = ia3_cpu_zero,
    .memory_used = ia3_cpu_memory_used,
    .matrix_create = ia3_cpu_matrix_create,
    .matrix_free = ia3_cpu_matrix_free,
    .matrix_prepare_backward = ia3_cpu_matrix_prepare_backward,
    .matrix_release_backward = ia3_cpu_matrix_release_backward,
    .table_create = ia3_cpu_table_create,
    .vector_create = ia3_cpu_vector_create,
    .matrix_from_values = ia3_cpu_matrix_from_values,
    .table_from_values = ia3_cpu_table_from_values,
    .matrix_update = ia3_cpu_matrix_update,
    .table_update = ia3_cpu_table_update,
    .copy = ia3_cpu_copy,
    .matmul = ia3_cpu_matmul,
    .matmul_bwd = ia3_cpu_matmul_bwd,
    .embed = ia3_cpu_embed,
    .rmsnorm = ia3_cpu_rmsnorm,
    .rmsnorm_bwd = ia3_cpu_rmsnorm_bwd,
    .add_dropout = ia3_cpu_add_dropout,
    .dropout_f32 = ia3_cpu_dropout_f32,
    .dropout_act = ia3_cpu_dropout_act,
    .dropout_f32_to_act = ia3_cpu_dropout_f32_to_act,
    .attention = ia3_cpu_attention,
    .attention_bwd = ia3_cpu_attention_bwd,
    .state_attention_fits = ia3_cpu_state_attention_fits,
    .state_attention = ia3_cpu_state_attention,
    .gated_act = ia3_cpu_gated_act,
    .gated_act_bwd = ia3_cpu_gated_act_bwd,
    .norm_matmul = ia3_cpu_norm_matmul,
    .vocab_logprobs = ia3_cpu_vocab_logprobs,
    .vocab_logprobs_bwd = ia3_cpu_vocab_logprobs_bwd,
    .adafactor = ia3_cpu_adafactor,
    .matmul_grad = ia3_cpu_matmul_grad,
    .embed_grad = ia3_cpu_embed_grad,
    .rmsnorm_grad = ia3_cpu_rmsnorm_grad,
    .bias_expand = ia3_cpu_bias_expand,
    .bias_table_grad = ia3_cpu_bias_table_grad,
    .mask_grad = ia3_cpu_mask_grad,
    .add_squares = ia3_cpu_add_squares,
    .scatter_add = ia3_cpu_scatter_add,
    .add_row = ia3_cpu_add_row,
    .add_row_bwd = ia3_cpu_add_row_bwd,
    .scale_row = ia3_cpu_scale_row,
    .scale_row_bwd = ia3_cpu_scale_row_bwd,
    .multiply = ia3_cpu_multiply,
    .low_rank = ia3_cpu_low_rank,
    .low_rank_bwd = ia3_cpu_low_rank_bwd,
    .bottleneck = ia3_cpu_bottleneck,
    .bottleneck_bwd = ia3_cpu_bottleneck_bwd,
    .phm = ia3_cpu_phm,
    .phm_bwd = ia3_cpu_phm_bwd,
    .put_rows = ia3_cpu_put_rows,
    .put_rows_bwd = ia3_cpu_put_rows_bwd,
    .dense = ia3_cpu_dense,
    .dense_bwd = ia3_cpu_dense_bwd,
};
