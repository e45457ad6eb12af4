/*
 * test_choices.c
 *     The choice trie: its rows and pairs, and invalid choices.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>

#include "engine/model/batch.h"
#include "engine/model/choices.h"
#include "engine/model/methods/methods.h"

enum { EOS = 1, START = 0 };

static ia3_choices *
create(const int32_t *const *ids, const int *len, int n, int *a, int *b, ia3_error *err)
{
    *err = (ia3_error){0};
    return ia3_choices_create(ids, len, n, START, a, b, err);
}

/* {5 6 1}, {5 7 1}, {5 1}: the rows are [start], [start 5], [start 5 6], [start 5 7] */
static void
shares_prefixes(void **state)
{
    const int32_t c0[] = {5, 6, EOS}, c1[] = {5, 7, EOS}, c2[] = {5, EOS};
    const int32_t *ids[] = {c0, c1, c2};
    const int len[] = {3, 3, 2};
    int a, b;
    ia3_error err;
    ia3_choices *c = create(ids, len, 3, &a, &b, &err);
    assert_non_null(c);
    assert_int_equal(c->n_rows, 4);
    assert_int_equal(c->n_pairs, 6); /* 5; 6, 7, eos; eos; eos */
    assert_int_equal(c->max_depth, 3);
    const int32_t token[] = {START, 5, 6, 7}, parent[] = {-1, 0, 1, 1}, depth[] = {0, 1, 2, 2};
    const int32_t offsets[] = {0, 1, 4, 5, 6};
    assert_memory_equal(c->row_token, token, sizeof token);
    assert_memory_equal(c->row_parent, parent, sizeof parent);
    assert_memory_equal(c->row_depth, depth, sizeof depth);
    assert_memory_equal(c->pair_offsets, offsets, sizeof offsets);
    assert_int_equal(c->choice_pairs[0][0], c->choice_pairs[2][0]);
    assert_int_not_equal(c->choice_pairs[0][2], c->choice_pairs[1][2]);
    for (int i = 0; i < 3; i++)
        for (int t = 0; t < len[i]; t++)
            assert_int_equal(c->pair_token[c->choice_pairs[i][t]], ids[i][t]);
    ia3_choices_free(c);
}

static void
names_the_culprits(void **state)
{
    const int32_t c0[] = {5, EOS}, c1[] = {6, EOS}, empty[] = {EOS};
    int a, b;
    ia3_error err;
    assert_null(create((const int32_t *const[]){c0, c1, c0}, (const int[]){2, 2, 2}, 3, &a, &b, &err));
    assert_int_equal(err.code, IA3_E_CHOICES);
    assert_int_equal(a, 0);
    assert_int_equal(b, 2);
    assert_null(create((const int32_t *const[]){c0, empty}, (const int[]){2, 1}, 2, &a, &b, &err));
    assert_int_equal(a, 1);
    assert_int_equal(b, -1);
    assert_null(create(NULL, NULL, 0, &a, &b, &err));
    assert_int_equal(err.code, IA3_E_CHOICES);
}

/* A client's choices must not block the engine: comparing all pairs of them would take minutes. */
static void
many_choices(void **state)
{
    enum { N = 400000 };
    int32_t(*tokens)[3] = malloc(N * sizeof *tokens);
    const int32_t **ids = malloc(N * sizeof *ids);
    int *len = malloc(N * sizeof *len), a, b;
    ia3_error err;
    for (int i = 0; i < N; i++) {
        tokens[i][0] = 2 + i % 30000;
        tokens[i][1] = 2 + i / 30000;
        tokens[i][2] = EOS;
        ids[i] = tokens[i];
        len[i] = 3;
    }
    clock_t start = clock();
    ia3_choices *c = create(ids, len, N, &a, &b, &err);
    assert_non_null(c);
    assert_int_equal(c->n_rows, 1 + 30000 + N);
    assert_int_equal(c->n_pairs, 30000 + 2 * N);
    ia3_choices_free(c);

    tokens[N - 1][0] = tokens[77][0];
    tokens[N - 1][1] = tokens[77][1];
    assert_null(create(ids, len, N, &a, &b, &err));
    assert_int_equal(a, 77);
    assert_int_equal(b, N - 1);
    assert_true(clock() - start < 20 * CLOCKS_PER_SEC);
    free(tokens);
    free(ids);
    free(len);
}

/* In a batch, rows of the second input refer to their own parents; chains repeat the start row. */
static void
packs_into_a_batch(void **state)
{
    const int32_t c0[] = {5, 6, EOS}, c1[] = {5, EOS}, input[] = {9, 8, EOS};
    int a, b;
    ia3_error err;
    ia3_choices *c = create((const int32_t *const[]){c0, c1}, (const int[]){3, 2}, 2, &a, &b, &err);
    ia3_batch batch;
    ia3_batch_init(&batch);
    const ia3_layout layout = {.variant = ia3_variant_standard(ia3_methods[0])};
    int slot = ia3_batch_add_slot(&batch, &layout, NULL, NULL);
    ia3_batch_add_input(&batch, input, 3, slot);
    assert_int_equal(ia3_batch_add_trie(&batch, c), 0);
    ia3_batch_add_input(&batch, input, 2, slot);
    assert_int_equal(ia3_batch_add_chains(&batch, c), c->n_pairs);

    assert_int_equal(batch.n_inputs, 2);
    assert_int_equal(batch.max_input, 3);
    assert_int_equal(batch.max_dec, 5);
    assert_int_equal(batch.max_depth, 3);
    const int32_t enc[] = {0, 3, 5}, dec[] = {0, 3, 8}, parent[] = {-1, 0, 1, -1, 3, 4, -1, 6};
    const int32_t ids[] = {START, 5, 6, START, 5, 6, START, 5}, depth[] = {0, 1, 2, 0, 1, 2, 0, 1};
    const int32_t tokens[] = {5, 6, EOS, EOS, 5, 6, EOS, 5, EOS}, offsets[] = {0, 1, 3, 4, 5, 6, 7, 8, 9};
    assert_memory_equal(batch.enc_offsets.v, enc, sizeof enc);
    assert_memory_equal(batch.dec_offsets.v, dec, sizeof dec);
    assert_memory_equal(batch.dec_parent.v, parent, sizeof parent);
    assert_memory_equal(batch.dec_ids.v, ids, sizeof ids);
    assert_memory_equal(batch.dec_depth.v, depth, sizeof depth);
    assert_memory_equal(batch.pair_tokens.v, tokens, sizeof tokens);
    assert_memory_equal(batch.pair_offsets.v, offsets, sizeof offsets);
    assert_int_equal(batch.enc_slots.n, 5);
    assert_int_equal(batch.dec_slots.n, 8);
    ia3_batch_free(&batch);
    ia3_choices_free(c);
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(shares_prefixes),
        cmocka_unit_test(names_the_culprits),
        cmocka_unit_test(many_choices),
        cmocka_unit_test(packs_into_a_batch),
    };
    return cmocka_run_group_tests_name("choices", tests, NULL, NULL);
}
