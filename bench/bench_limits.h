/*
 * bench_limits.h
 *     What share of the machine's own limits each operation reaches:
 *
 *   bench_profile --limits [score|train] [--shape mini|base|large] [--config CONFIG.json] [--rows N] [--tokens N]
 *                 [--choices N] [--dtype TYPE] [--threads N] [--passes N] [--dropout P] [--tsv]
 *
 * Random weights of a shape score or train on random rows, N tokens each. The same pass is repeated; of each call of an
 * operation the shortest time counts, processor time with one thread, else elapsed time. IA3_CPU_ISA selects the variant
 * of the kernels; the limits are measured with the same instructions in the same run (bench_rates.h). An operation's
 * time at its limit is the larger of two: that of its arithmetic at the measured rates, and that of its memory (bytes of
 * activations at the rate of a copy of this size, weights at that of reading from beyond the caches).
 *
 * --tsv prints lines of fields that are separated by tabs, the first of which says what the line is:
 *   rate NAME VALUE            per second and thread; bytes for those of memory
 *   op NAME PART CALLS SECONDS SHARE_OF_TIME LIMIT SECONDS_AT_LIMIT SHARE_OF_LIMIT    one pass; LIMIT: product, memory, ...
 *   part NAME SECONDS SHARE_OF_TIME SHARE_OF_LIMIT
 *   pass SECONDS SHARE_OF_PRODUCT_LIMIT SHARE_OF_ALL_LIMITS
 */
#ifndef IA3_BENCH_LIMITS_H
#define IA3_BENCH_LIMITS_H

/* Runs the command (argv[0] is "--limits") and returns the exit status. */
int bench_limits_main(int argc, char **argv);

#endif
