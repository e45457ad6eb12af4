/*
 * test_adapter_memory.c
 *     A thousand resident adapters take the memory of their values and hardly anything more. What a client is charged
 *     for those that it protects from eviction.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "engine/serve/adapter_cache.h"
#include "engine/serve/adapter_upload.h"
#include "engine/serve/connection.h"
#include "engine/model/methods/methods.h"

enum { ADAPTERS = 1000 };

static double
resident(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    assert_non_null(f);
    assert_int_equal(fscanf(f, "%*s %ld", &pages), 1);
    fclose(f);
    return (double) pages * (double) sysconf(_SC_PAGESIZE);
}

/* Handles an adapter as a request does: adds it to the cache, and moves it to the device when it is first needed. */
static void
use_new(ia3_server *s, ia3_adapter_cache *cache, int i)
{
    uint8_t digest[IA3_DIGEST_LEN] = {(uint8_t) i, (uint8_t) (i >> 8)};
    const ia3_layout *layout = ia3_layout_retain(ia3_model_layout(s->model));
    size_t n_values = layout->n_values;
    float *values = malloc(n_values * sizeof *values);
    ia3_error err = {0};
    for (size_t k = 0; k < n_values; k++)
        values[k] = 1 + (float) i / 1024;
    ia3_cached_adapter *e = ia3_adapter_cache_put(cache, digest, layout, values, 0);
    assert_true(ia3_adapter_to_device(s, e, &err));
    ia3_adapter_cache_release(cache, e);
}

static void
dispose(ia3_adapter *adapter, void *model)
{
    ia3_adapter_free(model, adapter);
}

static void
test_thousand(void **state)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    skip(); /* they keep shadows and what was freed */
#endif
    ia3_error err = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open("test/backbone", &err);
    assert_non_null(ck);
    ia3_server s = {.device = ia3_device_open("cpu", IA3_F32, 1, 0, &err)};
    assert_non_null(s.device);
    s.model = ia3_model_load(ck, s.device, ia3_methods, NULL, NULL, &err);
    assert_non_null(s.model);
    ia3_checkpoint_close(ck);
    size_t n_values = ia3_model_layout(s.model)->n_values;
    double vectors = (double) ADAPTERS * (double) n_values * sizeof(float);
    ia3_adapter_cache *cache = ia3_adapter_cache_create((size_t) 1 << 30, 0, dispose, s.model);

    for (int i = 0; i < 10; i++)
        use_new(&s, cache, i);
    double before = resident();
    for (int i = 10; i < 10 + ADAPTERS; i++)
        use_new(&s, cache, i);
    double grown = resident() - before;

    printf("%.1f MB of vectors, %.1f MB more resident\n", vectors / 1e6, grown / 1e6);
    assert_int_equal(ia3_adapter_cache_count(cache), 10 + ADAPTERS);
    assert_true(grown > 0.9 * vectors); /* they are there */
    assert_true(grown < 1.05 * vectors);
    ia3_adapter_cache_free(cache);
    ia3_model_free(s.model);
    s.device->ops->close(s.device);
}

/* A client is charged for what it sent, not for the weights that the engine makes of it. */
static void
test_pins(void **state)
{
    ia3_error err = {0};
    ia3_adapter_cache *cache = ia3_adapter_cache_create((size_t) 1 << 30, (size_t) 8 << 30, dispose, NULL);
    ia3_connection c = {0};
    ia3_checkpoint *ck = ia3_checkpoint_open("test/backbone", &err);
    assert_non_null(ck);
    ia3_device *dev = ia3_device_open("cpu", IA3_F32, 1, 0, &err);
    ia3_model *m = ia3_model_load(ck, dev, ia3_methods, NULL, NULL, &err);
    assert_non_null(m);
    const ia3_layout *layout = ia3_layout_retain(ia3_model_layout(m));
    const size_t bytes = layout->n_values * sizeof(float);
    static const uint8_t digest[IA3_DIGEST_LEN] = {1};
    ia3_cached_adapter *a =
        ia3_adapter_cache_put(cache, digest, layout, calloc(1, bytes), (size_t) 3 << 30 /* of weights */);
    ia3_connection_pin(&c, a);
    assert_int_equal(c.pinned_bytes, bytes);
    ia3_connection_unpin(&c, cache);
    assert_int_equal(c.pinned_bytes, 0);
    free(c.pins);
    ia3_adapter_cache_free(cache);
    ia3_model_free(m);
    ia3_checkpoint_close(ck);
    dev->ops->close(dev);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_thousand), cmocka_unit_test(test_pins)};

    return cmocka_run_group_tests_name("memory of adapters", tests, NULL, NULL);
}
