/*
 * test_cache.c
 *     The engine's caches of adapters and tokenized choice sets, and the lanes of waiting rows.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "engine/serve/adapter_cache.h"
#include "engine/serve/choice_sets.h"
#include "engine/serve/lanes.h"

#define VALUES 256 /* 1 kB an adapter */

static int disposed;

static void
dispose(ia3_adapter *adapter, void *arg)
{
    disposed++;
    free(adapter);
}

static void
digest_of(int i, uint8_t digest[IA3_DIGEST_LEN])
{
    memset(digest, 0, IA3_DIGEST_LEN);
    digest[0] = (uint8_t) i; /* the same hash bucket for i and i + 256 */
    digest[31] = (uint8_t) (i >> 8);
}

static ia3_cached_adapter *
put_with(ia3_adapter_cache *c, int i, size_t weights)
{
    uint8_t digest[IA3_DIGEST_LEN];
    digest_of(i, digest);
    static const ia3_layout layout = {.n_values = VALUES};
    return ia3_adapter_cache_put(c, digest, &layout, calloc(VALUES, sizeof(float)), weights);
}

static ia3_cached_adapter *
put(ia3_adapter_cache *c, int i)
{
    return put_with(c, i, 0);
}

/* Whether the cache has an adapter; does not keep a reference. */
static bool
has(ia3_adapter_cache *c, int i)
{
    uint8_t digest[IA3_DIGEST_LEN];
    digest_of(i, digest);
    ia3_cached_adapter *e = ia3_adapter_cache_acquire(c, digest);
    if (e)
        ia3_adapter_cache_release(c, e);
    return e != NULL;
}

static void
test_adapter_eviction(void **state)
{
    ia3_adapter_cache *c = ia3_adapter_cache_create(3 * VALUES * sizeof(float), 0, dispose, NULL);
    for (int i = 0; i < 3; i++)
        ia3_adapter_cache_release(c, put(c, i));
    assert_int_equal(ia3_adapter_cache_count(c), 3);
    assert_true(has(c, 0)); /* now the most recently used */
    ia3_adapter_cache_release(c, put(c, 3));
    assert_true(has(c, 0) && has(c, 2) && has(c, 3));
    assert_false(has(c, 1));
    assert_int_equal(ia3_adapter_cache_bytes(c), 3 * VALUES * sizeof(float));

    /* the same digest again is the same entry */
    ia3_cached_adapter *a = put(c, 3), *b = put(c, 3);
    assert_ptr_equal(a, b);
    assert_int_equal(a->refs, 2);
    ia3_adapter_cache_release(c, a);
    ia3_adapter_cache_release(c, b);
    assert_int_equal(ia3_adapter_cache_count(c), 3);
    ia3_adapter_cache_free(c);
}

/* Adapters with weights of their own have a limit of their own, which counts these; neither kind evicts the other. */
static void
test_weights(void **state)
{
    const size_t bytes = VALUES * sizeof(float), weights = 1000;
    ia3_adapter_cache *c = ia3_adapter_cache_create(2 * bytes, 2 * (bytes + weights), dispose, NULL);
    for (int i = 0; i < 2; i++) {
        ia3_adapter_cache_release(c, put(c, i));
        ia3_adapter_cache_release(c, put_with(c, 10 + i, weights));
    }
    assert_int_equal(ia3_adapter_cache_bytes(c), 4 * bytes + 2 * weights);
    ia3_adapter_cache_release(c, put_with(c, 12, weights));
    assert_true(has(c, 0) && has(c, 1) && has(c, 11) && has(c, 12));
    assert_false(has(c, 10));
    ia3_adapter_cache_release(c, put(c, 2));
    assert_true(has(c, 1) && has(c, 2) && has(c, 11) && has(c, 12));
    assert_false(has(c, 0));
    ia3_adapter_cache_shrink(c);
    assert_int_equal(ia3_adapter_cache_count(c), 0);
    assert_int_equal(ia3_adapter_cache_bytes(c), 0);
    ia3_adapter_cache_free(c);
}

/* Entries with references stay even above the limit, and are evicted when they are released. */
static void
test_adapter_pins(void **state)
{
    ia3_adapter_cache *c = ia3_adapter_cache_create(0, 0, dispose, NULL);
    ia3_cached_adapter *held[300];
    for (int i = 0; i < 300; i++)
        held[i] = put(c, i);
    assert_int_equal(ia3_adapter_cache_count(c), 300);
    for (int i = 0; i < 300; i++)
        assert_true(has(c, i));
    ia3_adapter_cache_shrink(c);
    assert_int_equal(ia3_adapter_cache_count(c), 300);
    disposed = 0;
    held[7]->device = calloc(1, sizeof(ia3_adapter));
    for (int i = 0; i < 300; i++)
        ia3_adapter_cache_release(c, held[i]);
    assert_int_equal(ia3_adapter_cache_count(c), 0);
    assert_int_equal(ia3_adapter_cache_bytes(c), 0);
    assert_int_equal(disposed, 1); /* the device copy went to the compute thread */
    assert_false(has(c, 7));
    ia3_adapter_cache_free(c);
}

/* A choice set in the format of a frame. */
typedef struct wire {
    uint8_t bytes[4096];
    ia3_wire_set set;
    ia3_span spans[32];
} wire;

static void
make_set(wire *w, const char *const *choices)
{
    size_t at = 4;
    uint32_t n = 0;
    for (; choices[n]; n++) {
        uint32_t len = (uint32_t) strlen(choices[n]);
        memcpy(w->bytes + at, &len, 4);
        memcpy(w->bytes + at + 4, choices[n], len);
        w->spans[n] = (ia3_span){.data = (const char *) w->bytes + at + 4, .len = len};
        at += 4 + len;
    }
    memcpy(w->bytes, &n, 4);
    w->set = (ia3_wire_set){.raw = w->bytes, .raw_len = at, .n = n};
}

static ia3_choice_set *
get_set(ia3_choice_sets *c, const char *const *choices)
{
    static wire w;
    make_set(&w, choices);
    ia3_choice_set *s = ia3_choice_sets_get(c, &w.set);
    for (int calls = 0; !ia3_choice_set_build(c, s, w.spans); calls++)
        assert_true(calls < 100);
    return s;
}

static void
test_choice_sets(void **state)
{
    ia3_error err = {0};
    ia3_tokenizer *tok = ia3_tokenizer_open("test/backbone", 8192, &err);
    assert_non_null(tok);
    ia3_choice_sets *c = ia3_choice_sets_create(tok, 0, 1 << 20);
    static const char *const yes_no[] = {"yes", "no", NULL}, *const no_yes[] = {"no", "yes", NULL},
                             *const twice[] = {"a", "b", "a", NULL}, *const invalid[] = {"\xff", "b", NULL};
    ia3_choice_set *a = get_set(c, yes_no), *b = get_set(c, yes_no), *other = get_set(c, no_yes);
    assert_ptr_equal(a, b);
    assert_ptr_not_equal(a, other); /* the order of the choices is the order of the scores */
    assert_non_null(a->choices);
    assert_int_equal(a->choices->n, 2);
    ia3_choice_set_release(c, a);
    ia3_choice_set_release(c, b);
    assert_ptr_equal(get_set(c, yes_no), a); /* it has stayed */
    ia3_choice_set_release(c, a);

    ia3_choice_set *bad = get_set(c, twice), *again = get_set(c, twice);
    assert_ptr_equal(bad, again); /* errors are remembered too */
    assert_null(bad->choices);
    assert_int_equal(bad->error.code, IA3_E_CHOICES);
    assert_string_equal(bad->error.message, "choice \"a\" is given twice");
    ia3_choice_set_release(c, bad);
    ia3_choice_set_release(c, again);
    bad = get_set(c, invalid);
    assert_int_equal(bad->error.code, IA3_E_INVALID);
    ia3_choice_set_release(c, bad);
    ia3_choice_set_release(c, other);
    ia3_choice_sets_free(c);

    /* a cache too small for anything: sets live as long as they are used */
    c = ia3_choice_sets_create(tok, 0, 10);
    a = get_set(c, yes_no);
    b = get_set(c, yes_no);
    assert_ptr_not_equal(a, b);
    ia3_choice_set_release(c, a);
    assert_int_equal(b->choices->n, 2);
    ia3_choice_set_release(c, b);
    ia3_choice_sets_free(c);
    ia3_tokenizer_close(tok);
}

/* Makes a request whose rows all cost `tokens`. */
static ia3_choices no_choices;
static ia3_choice_set set = {.choices = &no_choices};

static ia3_request *
make_request(uint64_t client, uint32_t n, int tokens)
{
    ia3_request *r = calloc(1, sizeof *r);
    r->type = IA3_SCORE;
    r->client = client;
    r->n_rows = n;
    r->rows = calloc(n, sizeof *r->rows);
    for (uint32_t i = 0; i < n; i++) {
        r->rows[i].request = r;
        r->rows[i].set = &set;
        r->rows[i].n_ids = tokens;
    }
    return r;
}

static void
publish(ia3_lanes *l, ia3_request *r, uint32_t n_ready)
{
    uint32_t more = n_ready - r->n_ready;
    r->n_ready = n_ready;
    ia3_lanes_add(l, r, more);
}

static int
count_of(const ia3_row_batch *b, const ia3_request *r)
{
    int n = 0;
    for (int i = 0; i < b->n; i++)
        n += b->rows[i]->request == r;
    return n;
}

static void
free_request(ia3_request *r)
{
    free(r->rows);
    free(r);
}

static void
test_lanes_share(void **state)
{
    static ia3_row_batch batch;
    ia3_lanes l = {.max_tokens = 100};
    ia3_request *big = make_request(1, 50, 10), *second = make_request(1, 5, 10),
                *small = make_request(2, 2, 10);
    publish(&l, big, 50);
    publish(&l, second, 5);
    publish(&l, small, 2);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 10);
    assert_int_equal(count_of(&batch, small), 2); /* does not wait behind the fifty */
    assert_int_equal(count_of(&batch, big), 8);
    int taken = 8;
    while (taken < 50) {
        assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch),
                         taken + 10 <= 55 ? 10 : 55 - taken);
        int n = count_of(&batch, big);
        assert_true(n == 10 || taken + n == 50); /* of one client the older request first */
        taken += n;
    }
    while (l.n_waiting > 0)
        ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch);
    assert_int_equal(second->n_taken, 5);
    assert_int_equal(l.n, 0);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 0);
    free_request(big);
    free_request(second);
    free_request(small);
    ia3_lanes_free(&l);
}

/* A row above the budget is a batch of its own; one that did not fit begins the next batch. */
static void
test_lanes_budget(void **state)
{
    static ia3_row_batch batch;
    ia3_lanes l = {.max_tokens = 100};
    ia3_request *small = make_request(1, 100, 10), *huge = make_request(2, 2, 1000),
                *middle = make_request(3, 1, 95);
    publish(&l, small, 100);
    publish(&l, huge, 2);
    publish(&l, middle, 1);
    int batches = 0;
    while (l.n_waiting > 0) {
        assert_true(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch) > 0);
        int tokens = 0;
        for (int i = 0; i < batch.n; i++)
            tokens += batch.rows[i]->n_ids;
        assert_true(tokens <= 100 || batch.n == 1);
        batches++;
        if (batches == 4) /* the many small rows do not delay it */
            assert_true(middle->n_taken == 1 && huge->n_taken >= 1);
    }
    assert_int_equal(huge->n_taken, 2);
    assert_true(batches <= 10 + 2 + 1 + 1);
    free_request(small);
    free_request(huge);
    free_request(middle);
    ia3_lanes_free(&l);
}

/* A client with few short rows does not share a batch with others; batches of either kind go around all lanes. */
static void
test_lanes_quick(void **state)
{
    static ia3_row_batch batch;
    ia3_lanes l = {.max_tokens = 160};
    ia3_request *scan = make_request(1, 40, 10), *huge = make_request(2, 1, 1000),
                *few = make_request(3, 2, 10), *costly = make_request(4, 1, 11);
    publish(&l, scan, 40);
    publish(&l, huge, 1);
    publish(&l, few, 2);
    publish(&l, costly, 1);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_SHORT, &batch), 2);
    assert_int_equal(batch.kind, IA3_ROW_QUICK);
    assert_int_equal(few->n_taken, 2);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_SHORT, &batch), 0);
    /* fourteen of the scan and the one of eleven tokens */
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_LONG, &batch), 15);
    assert_int_equal(batch.kind, IA3_ROW_SHORT);
    assert_int_equal(costly->n_taken, 1);
    /* the many batches of quick rows in between do not move the turn of the others */
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 16);
    assert_int_equal(huge->n_taken, 0);
    ia3_request *more[3];
    for (int i = 0; i < 3; i++) {
        more[i] = make_request(5, 1, 10);
        publish(&l, more[i], 1);
        assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_SHORT, &batch), 1);
        assert_ptr_equal(batch.rows[0]->request, more[i]);
    }
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 1);
    assert_int_equal(huge->n_taken, 1);
    assert_int_equal(batch.kind, IA3_ROW_LONG);
    /* two requests of one client at once are no longer few rows */
    /* quick rows can be left out */
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_SHORT, IA3_ROW_ANY, &batch), 10); /* the rest of the scan */
    ia3_request *last = make_request(7, 1, 10);
    publish(&l, last, 1);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_SHORT, IA3_ROW_ANY, &batch), 0);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 1);
    free_request(last);
    ia3_request *pair[2] = {make_request(6, 8, 10), make_request(6, 1, 10)};
    publish(&l, pair[0], 8);
    publish(&l, pair[1], 1);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_SHORT, &batch), 0);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 9);
    for (int i = 0; i < 3; i++)
        free_request(more[i]);
    free_request(pair[0]);
    free_request(pair[1]);
    free_request(scan);
    free_request(huge);
    free_request(few);
    free_request(costly);
    ia3_lanes_free(&l);
}

/* Rows become ready one after another, with cancellations in between. */
static void
test_lanes_partial(void **state)
{
    static ia3_row_batch batch;
    ia3_lanes l = {.max_tokens = 1000};
    ia3_request *a = make_request(1, 10, 10), *b = make_request(1, 10, 10);
    publish(&l, a, 3);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 3);
    assert_int_equal(l.n_waiting, 0);
    publish(&l, b, 2);
    publish(&l, a, 7);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 6);
    assert_int_equal(count_of(&batch, a), 4);
    publish(&l, a, 9);
    assert_null(ia3_lanes_take_cancelled(&l));
    atomic_store(&a->cancelled, true);
    assert_ptr_equal(ia3_lanes_take_cancelled(&l), a);
    assert_null(ia3_lanes_take_cancelled(&l));
    assert_int_equal(l.n_waiting, 0);
    publish(&l, b, 10);
    assert_int_equal(ia3_lanes_fill(&l, IA3_ROW_QUICK, IA3_ROW_ANY, &batch), 8);
    assert_int_equal(count_of(&batch, b), 8);
    assert_int_equal(l.n, 0);
    free_request(a);
    free_request(b);
    ia3_lanes_free(&l);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_adapter_eviction), cmocka_unit_test(test_adapter_pins),
        cmocka_unit_test(test_weights),          cmocka_unit_test(test_choice_sets),
        cmocka_unit_test(test_lanes_share),      cmocka_unit_test(test_lanes_budget),
        cmocka_unit_test(test_lanes_quick),      cmocka_unit_test(test_lanes_partial),
    };
    return cmocka_run_group_tests_name("cache", tests, NULL, NULL);
}
