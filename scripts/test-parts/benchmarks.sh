# shellcheck shell=bash
#
# benchmarks.sh: the part `benchmarks` of scripts/test. Sourced by it.

# Every benchmark with the smallest sizes. Those that make clusters take longest, and are started first.
test_benchmarks() {
    part "benchmarks: each of them runs to its end"
    local name programs=(kernels matmul onednn profile engine load gpu)
    make_engine benchmarks WERROR=-Werror build/release/ia3_engine build/release/bench/hold_isa.so \
        "${programs[@]/#/build/release/bench/bench_}" || return 0
    copy_backbone
    new_jobs
    for name in soak batching hostile $(test/benchmarks/run.pl --list); do
        [ ! -e "$JOBS/$name.sh" ] || continue
        mkdir "$IA3_TMP/benchmark-$name"
        add_job "$name" env IA3_INSTALLED=1 "IA3_BENCH_BACKBONE=$IA3_TMP/backbone" test/benchmarks/run.pl "$name" "$IA3_TMP/benchmark-$name"
    done
    run_jobs
    count_tap benchmarks
}
