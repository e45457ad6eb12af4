/*
 * bench_ops.h
 *     Times the operations of a device while the engine runs, and counts the work that each of them cannot do without.
 *
 * Two clocks are read before and after each operation: elapsed time, and the processor time of all threads together,
 * which other work on the machine does not change.
 */
#ifndef IA3_BENCH_OPS_H
#define IA3_BENCH_OPS_H

#include "engine/device/device.h"

/* What an operation belongs to. */
typedef enum bench_part {
    BENCH_PRODUCTS,
    BENCH_ATTENTION,
    BENCH_VOCABULARY, /* the product with the head, and the softmax over it */
    BENCH_NORMS,
    BENCH_GATES,
    BENCH_DROPOUT,
    BENCH_OTHER,
    BENCH_N_PARTS
} bench_part;

/* Counted from shapes alone: nothing padded, nothing computed twice. */
typedef struct bench_work {
    double products; /* multiplications and additions with weights */
    double sums;     /* the same without weights (attention) */
    double exps, gelus, gelu_grads, masks;
    double bytes;   /* of activations, read and written */
    double weights; /* bytes of weights, each read once */
} bench_work;

typedef struct bench_seconds {
    double wall, busy;
} bench_seconds;

/* All calls of an operation; products are distinguished by shape. */
typedef struct bench_op {
    char name[48];
    bench_part part;
    bench_seconds time;
    double flops; /* of products with weights */
    long calls, rows;
} bench_op;

/* One call in a pass that is repeated: the shortest times. */
typedef struct bench_call {
    int op;
    int rows; /* of products */
    bench_work work;
    bench_seconds time;
} bench_call;

typedef struct bench_ops {
    int n;
    bench_op v[64];
    /* for repeated passes, which make the same calls; otherwise not used */
    bool repeated;
    int n_calls, cap, at;
    bench_call *calls;
} bench_ops;

bench_seconds bench_ops_now(void);

/* Times all operations of this device from now on. There can be only one. */
void bench_ops_wrap(ia3_device *dev);

/* What has been counted so far. */
const bench_ops *bench_ops_counted(void);

/* Begins a pass that makes the same calls as the one that began before. Of each call the shortest times are kept. */
void bench_ops_repeat(void);

#endif
