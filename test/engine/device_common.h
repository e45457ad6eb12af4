/*
 * device_common.h
 *     Common parts of the tests of device operations: a device, random data in its dtype, comparisons.
 *
 * Expected results are computed in double precision from the values that the device gets (rounded to its dtype), so
 * tolerances measure only the kernels' error. IA3_TEST_DEVICE selects a device other than "cpu".
 */
#ifndef IA3_TEST_DEVICE_COMMON_H
#define IA3_TEST_DEVICE_COMMON_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/rng.h"
#include "engine/device/device.h"
#include "kernels/cpu/act.h"
#include "kernels/cpu/cpu.h"

static inline ia3_device *
open_device(ia3_dtype dtype, int threads, size_t limit)
{
    ia3_error err = {0};
    const char *spec = getenv("IA3_TEST_DEVICE");
    ia3_device *dev = ia3_device_open(spec ? spec : "cpu", dtype, threads, limit, &err);
    /* CPUs and GPUs support both dtypes */
    if (!dev && (dtype == IA3_F32 || !spec || strcmp(spec, "cpu") == 0 || strncmp(spec, "cuda", 4) == 0))
        fail_msg("cannot open the device: %s", err.message);
    return dev;
}

/*
 * Makes a CPU that only stores weights in bfloat16 use activations in bfloat16 as well, so that the conversions and the
 * operations on rows in bfloat16 are tested there. Matrix products and attention of processors with instructions for
 * bfloat16 are not run by this. False if the device is another one.
 */
static inline bool
make_act_bf16(ia3_device *dev)
{
    ia3_cpu *cpu = (ia3_cpu *) dev;
    if (strcmp(dev->name, "cpu") != 0 || dev->dtype != IA3_F32)
        return false;
    dev->dtype = IA3_BF16;
    cpu->bf16 = true;
    cpu->act_size = sizeof(uint16_t);
    return true;
}

/* Calls `test` for each dtype that the device supports. */
static inline void
for_each_dtype(void (*test)(ia3_device *dev))
{
    ia3_device *dev = open_device(IA3_F32, 2, 0);
    test(dev);
    dev->ops->close(dev);
    dev = open_device(IA3_BF16, 2, 0);
    if (!dev) {
        print_message("  bfloat16 is not available here\n");
        return;
    }
    test(dev);
    dev->ops->close(dev);
    dev = open_device(IA3_BF16, 2, 0);
    if (make_act_bf16(dev))
        test(dev);
    dev->ops->close(dev);
}

static inline bool
is_bf16(const ia3_device *dev)
{
    return dev->dtype == IA3_BF16;
}

/* Pseudo-random numbers, the same in every run. */
static uint64_t test_random_state = 1;

static inline void
seed_random(uint64_t seed)
{
    test_random_state = seed;
}

static inline double
random_number(void)
{
    test_random_state++;
    return (double) (ia3_mix64(test_random_state) >> 11) / 9007199254740992.0 * 2.0 - 1.0;
}

static inline int
random_below(int n)
{
    test_random_state++;
    return (int) (ia3_mix64(test_random_state) % (uint64_t) n);
}

static inline double *
random_values(size_t n, double scale)
{
    double *v = calloc(n + 1, sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = scale * random_number();
    return v;
}

static inline double
round_to(bool bf16, double v)
{
    return bf16 ? ia3_bf16_to_f32(ia3_f32_to_bf16((float) v)) : (float) v;
}

static inline double
round_act(const ia3_device *dev, double v)
{
    return round_to(is_bf16(dev), v);
}

/* Rounds a weight that is not in eight bits, or an element of a table. */
static inline double
round_weight(const ia3_device *dev, double v)
{
    return round_to(ia3_device_table_dtype(dev) == IA3_BF16, v);
}

/* Copy values to the device and replace them by what the device got, rounded to its dtype. */
static inline void *
put_act(ia3_device *dev, double *v, size_t n)
{
    size_t size = ia3_dtype_size(dev->dtype);
    void *host = calloc(n + 1, 4), *p = dev->ops->alloc(dev, (n + 1) * size);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++) {
        v[i] = round_act(dev, v[i]);
        if (is_bf16(dev))
            ((uint16_t *) host)[i] = ia3_f32_to_bf16((float) v[i]);
        else
            ((float *) host)[i] = (float) v[i];
    }
    dev->ops->upload(dev, p, host, n * size);
    free(host);
    return p;
}

static inline float *
put_f32(ia3_device *dev, double *v, size_t n)
{
    float *host = calloc(n + 1, sizeof *host), *p = dev->ops->alloc(dev, (n + 1) * sizeof *host);
    assert_non_null(p);
    for (size_t i = 0; i < n; i++)
        v[i] = host[i] = (float) v[i];
    dev->ops->upload(dev, p, host, n * sizeof *host);
    free(host);
    return p;
}

static inline void *
put_bytes(ia3_device *dev, const void *v, size_t bytes)
{
    void *p = dev->ops->alloc(dev, bytes + 1);
    assert_non_null(p);
    dev->ops->upload(dev, p, v, bytes);
    return p;
}

static inline double *
get_f32(ia3_device *dev, const float *p, size_t n)
{
    float *host = calloc(n + 1, sizeof *host);
    double *v = calloc(n + 1, sizeof *v);
    dev->ops->download(dev, host, p, n * sizeof *host);
    for (size_t i = 0; i < n; i++)
        v[i] = host[i];
    free(host);
    return v;
}

static inline double *
get_bf16(ia3_device *dev, const void *p, size_t n)
{
    uint16_t *host = calloc(n + 1, sizeof *host);
    double *v = calloc(n + 1, sizeof *v);
    dev->ops->download(dev, host, p, n * sizeof *host);
    for (size_t i = 0; i < n; i++)
        v[i] = ia3_bf16_to_f32(host[i]);
    free(host);
    return v;
}

static inline double *
get_act(ia3_device *dev, const void *p, size_t n)
{
    return is_bf16(dev) ? get_bf16(dev, p, n) : get_f32(dev, p, n);
}

/* Checks |got - want| <= tolerance·(largest |want|) for all elements, and that none is NaN. */
static inline void
assert_close(const char *what, const double *got, const double *want, size_t n, double tolerance)
{
    double scale = 1e-30;
    for (size_t i = 0; i < n; i++)
        scale = fmax(scale, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= tolerance * scale))
            fail_msg("%s[%zu] is %.9g, not %.9g (largest value %.3g)", what, i, got[i], want[i], scale);
}

/* The dropout multiplier of one element by the definition. */
static inline double
drop_factor(float p, uint32_t site, uint64_t key, uint32_t col)
{
    if (p <= 0)
        return 1.0;
    return ia3_dropout_bits(key, site, col) >= ia3_dropout_threshold(p) ? 1.0 / (1.0 - (double) p) : 0.0;
}

#endif
