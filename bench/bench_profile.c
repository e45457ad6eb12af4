/*
 * bench_profile.c
 *     Shows which device operations take the time of training or scoring:
 *
 *   bench_profile train OPTION... < lines of text<TAB>label      (the commands and options of ia3_engine)
 *   bench_profile score OPTION... < lines of text
 *   bench_profile --limits ...                                    (bench_limits.h)
 *
 * The output is easiest to read with --threads 1. Matrix products are listed by shape, with their mean number of rows
 * and their rate. What is left of the total is the time of the model code. The first steps touch memory for the first
 * time, so compare runs of different lengths.
 */
#include <stdio.h>
#include <string.h>

#include "bench_limits.h"
#include "bench_ops.h"
#include "engine/cli/cli.h"
#include "engine/serve/options.h"
#include "engine/serve/serve.h"

static void
report(bench_seconds start)
{
    const bench_ops *ops = bench_ops_counted();
    bench_seconds end = bench_ops_now();
    double wall = end.wall - start.wall, busy = end.busy - start.busy, other_wall = wall, other_busy = busy;
    fprintf(stderr, "%-26s %7s %9s %9s %6s\n", "", "calls", "passed", "busy", "%");
    for (int i = 0; i < ops->n; i++) {
        const bench_op *o = &ops->v[i];
        fprintf(stderr, "%-26s %7ld %9.3f %9.3f %6.1f", o->name, o->calls, o->time.wall, o->time.busy,
                100 * o->time.busy / busy);
        if (o->flops > 0)
            fprintf(stderr, "  %5ld rows, %4.0f GFLOP/s", o->rows / o->calls, 1e-9 * o->flops / o->time.busy);
        fputc('\n', stderr);
        other_wall -= o->time.wall;
        other_busy -= o->time.busy;
    }
    fprintf(stderr, "%-26s %7s %9.3f %9.3f %6.1f\n", "all else", "", other_wall, other_busy,
            100 * other_busy / busy);
    fprintf(stderr, "%-26s %7s %9.3f %9.3f\n", "whole", "", wall, busy);
}

int
main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], "--limits") == 0)
        return bench_limits_main(argc - 1, argv + 1);
    ia3_error err = {0};
    ia3_options options;
    int status = ia3_options_parse(&options, argc, argv);
    if (status >= 0)
        return status;
    if (strcmp(options.command, "train") != 0 && strcmp(options.command, "score") != 0) {
        fprintf(stderr, "usage: bench_profile train|score OPTION... or --limits ...\n");
        return 2;
    }
    ia3_server s = {.options = &options};
    if (!ia3_server_load(&s, NULL, &err)) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    bench_ops_wrap(s.device);
    bench_seconds start = bench_ops_now();
    if (!(strcmp(options.command, "train") == 0 ? ia3_cli_train(&s, &err) : ia3_cli_score(&s, &err))) {
        fprintf(stderr, "%s\n", err.message);
        return 1;
    }
    report(start);
    return 0;
}
