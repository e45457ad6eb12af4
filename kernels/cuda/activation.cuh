/*
 * activation.cuh
 *     Feed-forward activations and their derivatives. Formulas: kernels/cpu/activation.h.
 */
#ifndef IA3_CUDA_ACTIVATION_CUH
#define IA3_CUDA_ACTIVATION_CUH

#include "cuda.h"

#define IA3_GELU_A 0.7978845608028654f /* √(2/π) */
#define IA3_GELU_B 0.044715f

IA3_DEV float
ia3_sigmoid(float x)
{
    return 1.0f / (1.0f + expf(-x));
}

/* act(x), and act'(x) in *derivative */
template <ia3_activation ACT>
IA3_DEV float
ia3_cuda_activate_grad(float x, float *derivative)
{
    if (ACT == IA3_RELU) {
        *derivative = x > 0.0f ? 1.0f : 0.0f;
        return x > 0.0f ? x : 0.0f;
    }
    if (ACT == IA3_GELU) {
        const float half = 0.5f * erfcf(x * -0.70710678118654752f);
        *derivative = half + x * 0.3989422804014327f * expf(-0.5f * x * x);
        return x * half;
    }
    if (ACT == IA3_GELU_NEW) {
        const float u = IA3_GELU_A * (x + IA3_GELU_B * x * x * x), s = ia3_sigmoid(2.0f * u);
        const float du = IA3_GELU_A * (1.0f + 3.0f * IA3_GELU_B * x * x);
        *derivative = s + x * s * (1.0f - s) * 2.0f * du;
        return x * s;
    }
    const float s = ia3_sigmoid(x);
    *derivative = s + x * s * (1.0f - s);
    return x * s;
}

template <ia3_activation ACT>
IA3_DEV float
ia3_cuda_activate(float x)
{
    float unused; /* compilers eliminate the computation of an unused derivative */
    return ia3_cuda_activate_grad<ACT>(x, &unused);
}

#endif
