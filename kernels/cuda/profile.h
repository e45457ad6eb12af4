/*
 * profile.h
 *     Times of kernels, copies and matrix products (profile.cu). It costs nothing but a test where IA3_CUDA_PROFILE is
 *     not set. Included by portable.cuh and by the simulator.
 */
#ifndef IA3_CUDA_PROFILE_H
#define IA3_CUDA_PROFILE_H

extern bool ia3_cuda_profiling;

void ia3_cuda_profile_open(void); /* looks at the environment */
void ia3_cuda_profile_start(const char *name, cudaStream_t stream);
void ia3_cuda_profile_kernel(const char *name, unsigned blocks, cudaStream_t stream);
void ia3_cuda_profile_end(cudaStream_t stream);
void ia3_cuda_profile_print(void); /* what was measured since the last call, to stderr */

/* Measures what is launched while it exists, under this name. */
struct ia3_cuda_span {
    cudaStream_t stream;
    ia3_cuda_span(const char *name, cudaStream_t on) : stream(on)
    {
        if (ia3_cuda_profiling)
            ia3_cuda_profile_start(name, on);
    }
    ia3_cuda_span(const char *kernel, dim3 grid, cudaStream_t on) : stream(on)
    {
        if (ia3_cuda_profiling)
            ia3_cuda_profile_kernel(kernel, grid.x * grid.y * grid.z, on);
    }
    ~ia3_cuda_span()
    {
        if (ia3_cuda_profiling)
            ia3_cuda_profile_end(stream);
    }
};

#endif
