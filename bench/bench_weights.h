/*
 * bench_weights.h
 *     Random weights of any shape for benchmarks, which take little host memory.
 *
 * All tensors of a kind share one random block, each at an offset of its own, so that a backbone of 11 billion
 * parameters takes half a gigabyte. The kinds differ in their standard deviations, which are those of T5's
 * initialisation, so that activations have an ordinary size in all layers. Values are uniform, in bfloat16.
 */
#ifndef IA3_BENCH_WEIGHTS_H
#define IA3_BENCH_WEIGHTS_H

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine/base/alloc.h"
#include "engine/base/rng.h"
#include "engine/files/checkpoint.h"
#include "engine/files/state_dict.h"
#include "kernels/cpu/act.h"

enum { BENCH_SLACK = 1 << 20 }; /* offsets within a block, in values */

typedef struct bench_weights {
    uint16_t *matrix;    /* deviation d_model^-0.5 */
    uint16_t *query;     /* (d_model · d_kv)^-0.5: no 1/sqrt(d_kv) in T5's attention */
    uint16_t *embedding; /* 1 */
    uint16_t *norm;      /* ones */
} bench_weights;

/* Returns n uniformly distributed values with this standard deviation, 64-byte aligned; the caller frees them. */
static inline uint16_t *
bench_random_block(size_t n, double deviation, uint64_t seed)
{
    uint16_t *level = malloc(65536 * sizeof *level);
    uint16_t *block = aligned_alloc(64, ((n + 4) * sizeof *block + 63) / 64 * 64);
    if (level == NULL || block == NULL) {
        fprintf(stderr, "out of memory for %zu random values\n", n);
        exit(1);
    }
    for (int i = 0; i < 65536; i++)
        level[i] = ia3_f32_to_bf16((float) ((i - 32767.5) / 32767.5 * sqrt(3.0) * deviation));
    for (size_t i = 0; i < n; i += 4) {
        uint64_t bits = ia3_mix64(seed + i);
        for (int k = 0; k < 4; k++)
            block[i + (size_t) k] = level[bits >> (16 * k) & 0xffff];
    }
    free(level);
    return block;
}

static inline void
bench_weights_create(bench_weights *w, const ia3_config *c)
{
    size_t widest = (size_t) (c->inner > c->d_ff ? c->inner : c->d_ff);
    size_t ends = (size_t) c->vocab_size * (size_t) c->d_model;
    size_t largest = widest * (size_t) c->d_model > ends ? widest * (size_t) c->d_model : ends;
    double deviation = 1 / sqrt(c->d_model);
    w->matrix = bench_random_block(largest + BENCH_SLACK, deviation, 1);
    w->query = bench_random_block((size_t) c->inner * (size_t) c->d_model + BENCH_SLACK,
                                  deviation / sqrt(c->d_kv), 2);
    w->embedding = bench_random_block(ends + BENCH_SLACK, 1, 3);
    w->norm = malloc((size_t) c->d_model * sizeof *w->norm);
    for (int i = 0; i < c->d_model; i++)
        w->norm[i] = ia3_f32_to_bf16(1.0f);
}

static inline void
bench_weights_free(bench_weights *w)
{
    free(w->matrix);
    free(w->query);
    free(w->embedding);
    free(w->norm);
}

/* Implements ia3_tensor_source; arg is a bench_weights. */
static inline const void *
bench_weights_source(const char *name, int64_t rows, int64_t cols, void *arg)
{
    const bench_weights *w = arg;
    uint64_t hash = 0;
    for (const char *p = name; *p; p++)
        hash = ia3_mix64(hash + (uint8_t) *p);
    size_t offset = hash % BENCH_SLACK / 32 * 32; /* aligned to 64 bytes */
    if (strstr(name, "layer_norm"))
        return w->norm;
    if (strstr(name, "Attention.q.weight"))
        return w->query + offset;
    return (strcmp(name, "shared.weight") == 0 ? w->embedding : w->matrix) + offset;
}

/* --- as a file --- */

static inline int
bench_compare_names(const void *a, const void *b)
{
    return strcmp(((const ia3_state_tensor *) a)->name, ((const ia3_state_tensor *) b)->name);
}

/* Lists the graph's tensors, the embedding and the head, sorted by name; the caller frees the list. */
static inline ia3_state_tensor *
bench_all_tensors(const ia3_config *c, int *n)
{
    ia3_state_tensor *graph = ia3_state_dict(c, n);
    static const char *const ends[] = {"shared.weight", "lm_head.weight"};
    graph = ia3_realloc(graph, ((size_t) *n + 2) * sizeof *graph);
    for (int i = 0; i < 2; i++) {
        ia3_state_tensor *t = &graph[(*n)++];
        *t = (ia3_state_tensor){.ndim = 2, .rows = c->vocab_size, .cols = c->d_model};
        snprintf(t->name, sizeof t->name, "%s", ends[i]);
    }
    qsort(graph, (size_t) *n, sizeof *graph, bench_compare_names);
    return graph;
}

static inline size_t
bench_tensor_bytes(const ia3_state_tensor *t)
{
    return 2 * (size_t) t->rows * (size_t) t->cols;
}

/* Writes model.safetensors to `path`; false with errno set if the file cannot be written. */
static inline bool
bench_weights_write(bench_weights *w, const ia3_config *c, const char *path)
{
    int n;
    ia3_state_tensor *all = bench_all_tensors(c, &n);
    char *header = NULL;
    size_t header_len, at = 0;
    FILE *text = open_memstream(&header, &header_len), *f = fopen(path, "wb");
    fprintf(text, "{\"__metadata__\":{\"format\":\"pt\"}");
    for (int i = 0; i < n; i++) {
        const ia3_state_tensor *t = &all[i];
        fprintf(text, ",\"%s\":{\"dtype\":\"BF16\",\"shape\":[", t->name);
        if (t->ndim == 2)
            fprintf(text, "%lld,", (long long) t->rows);
        fprintf(text, "%lld],\"data_offsets\":[%zu,%zu]}", (long long) t->cols, at,
                at + bench_tensor_bytes(t));
        at += bench_tensor_bytes(t);
    }
    fputc('}', text);
    while (ftell(text) % 8 != 0)
        fputc(' ', text);
    fclose(text);
    uint64_t len = header_len; /* the host is little-endian, like the format */
    bool ok = f && fwrite(&len, sizeof len, 1, f) == 1 && fwrite(header, 1, header_len, f) == header_len;
    for (int i = 0; ok && i < n; i++) {
        size_t bytes = bench_tensor_bytes(&all[i]);
        ok = fwrite(bench_weights_source(all[i].name, all[i].rows, all[i].cols, w), 1, bytes, f) == bytes;
    }
    if (f)
        ok = fclose(f) == 0 && ok;
    free(header);
    free(all);
    return ok;
}

#endif
