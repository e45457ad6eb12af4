/*
 * onednn_compat.h
 *     Hides the differences between oneDNN 2.x and 3.x, and between its threading runtimes.
 *
 * A memory descriptor is a struct in 2.x and a handle in 3.x. The kernels keep an ia3_md and pass ia3_md_get(&md) to
 * oneDNN. Functions that return bool return false when oneDNN reports an error.
 */
#ifndef IA3_CPU_ONEDNN_COMPAT_H
#define IA3_CPU_ONEDNN_COMPAT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <oneapi/dnnl/dnnl.h>

/*
 * Our thread pool divides the work, so oneDNN must not start threads of its own. With the OpenMP runtime this limits
 * its parallel loops to one thread; the setting is per thread, so each thread calls this. The prototype is written
 * out because omp.h does not come with clang.
 */
#if DNNL_CPU_THREADING_RUNTIME == DNNL_RUNTIME_OMP
extern void omp_set_num_threads(int n);
static inline void
ia3_onednn_single_thread(void)
{
    static _Thread_local bool done;
    if (!done)
        omp_set_num_threads(1);
    done = true;
}
#else
static inline void
ia3_onednn_single_thread(void)
{
}
#endif

#if DNNL_VERSION_MAJOR >= 3

typedef struct ia3_md {
    dnnl_memory_desc_t d;
} ia3_md;
typedef const_dnnl_memory_desc_t ia3_md_ptr;

static inline ia3_md_ptr
ia3_md_get(const ia3_md *md)
{
    return md->d;
}

static inline void
ia3_md_release(ia3_md *md)
{
    if (md->d)
        dnnl_memory_desc_destroy(md->d);
    md->d = NULL;
}

static inline bool
ia3_md_copy(ia3_md *md, ia3_md_ptr from)
{
    return dnnl_memory_desc_clone(&md->d, from) == dnnl_success;
}

static inline bool
ia3_md_init(ia3_md *md, int ndims, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_create_with_strides(&md->d, ndims, dims, type, strides) == dnnl_success;
}

static inline bool
ia3_md_init_any(ia3_md *md, int ndims, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_create_with_tag(&md->d, ndims, dims, type, dnnl_format_tag_any) == dnnl_success;
}

static inline bool
ia3_matmul_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const ia3_md *src, const ia3_md *weights,
              const ia3_md *dst, dnnl_primitive_attr_t attr)
{
    return dnnl_matmul_primitive_desc_create(pd, engine, src->d, weights->d, NULL, dst->d, attr) ==
           dnnl_success;
}

static inline bool
ia3_post_ops_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef) == dnnl_success;
}

#else

typedef struct ia3_md {
    dnnl_memory_desc_t d;
} ia3_md;
typedef const dnnl_memory_desc_t *ia3_md_ptr;

static inline ia3_md_ptr
ia3_md_get(const ia3_md *md)
{
    return &md->d;
}

static inline void
ia3_md_release(ia3_md *md)
{
    (void) md;
}

static inline bool
ia3_md_copy(ia3_md *md, ia3_md_ptr from)
{
    md->d = *from;
    return true;
}

static inline bool
ia3_md_init(ia3_md *md, int ndims, const dnnl_dims_t dims, dnnl_data_type_t type, const dnnl_dims_t strides)
{
    return dnnl_memory_desc_init_by_strides(&md->d, ndims, dims, type, strides) == dnnl_success;
}

static inline bool
ia3_md_init_any(ia3_md *md, int ndims, const dnnl_dims_t dims, dnnl_data_type_t type)
{
    return dnnl_memory_desc_init_by_tag(&md->d, ndims, dims, type, dnnl_format_tag_any) == dnnl_success;
}

static inline bool
ia3_matmul_pd(dnnl_primitive_desc_t *pd, dnnl_engine_t engine, const ia3_md *src, const ia3_md *weights,
              const ia3_md *dst, dnnl_primitive_attr_t attr)
{
    dnnl_matmul_desc_t desc;
    return dnnl_matmul_desc_init(&desc, &src->d, &weights->d, NULL, &dst->d) == dnnl_success &&
           dnnl_primitive_desc_create(pd, &desc, attr, engine, NULL) == dnnl_success;
}

static inline bool
ia3_post_ops_sum(dnnl_post_ops_t ops)
{
    return dnnl_post_ops_append_sum(ops, 1.0f) == dnnl_success;
}

#endif

/* Describes a [rows, cols] matrix with the given strides in elements. */
static inline bool
ia3_md_matrix(ia3_md *md, int64_t rows, int64_t cols, dnnl_data_type_t type, int64_t row_stride,
              int64_t col_stride)
{
    dnnl_dims_t dims = {rows, cols}, strides = {row_stride, col_stride};
    return ia3_md_init(md, 2, dims, type, strides);
}

static inline bool
ia3_md_bytes(ia3_md *md, size_t bytes)
{
    dnnl_dims_t dims = {(dnnl_dim_t) (bytes ? bytes : 1)}, strides = {1};
    return ia3_md_init(md, 1, dims, dnnl_u8, strides);
}

/* Size in bytes of the scratchpad that a primitive expects from its caller. */
static inline size_t
ia3_pd_scratchpad(dnnl_primitive_desc_t pd)
{
    ia3_md_ptr md = dnnl_primitive_desc_query_md(pd, dnnl_query_scratchpad_md, 0);
    return md ? dnnl_memory_desc_get_size(md) : 0;
}

#endif
