# shellcheck shell=bash
#
# engine.sh: the parts of scripts/test that need no PostgreSQL. Sourced by it.

# Those that take longest, which are started first so that none runs alone at the end.
SLOW_ENGINE_TESTS=(gradient give_way devices golden server methods kernels_attention input server_faults kernels_matmul
    attention_shapes state_attention drain)
# What `quick` leaves out: other parts of what these look at remain (see scripts/test).
NOT_QUICK_ENGINE_TESTS=(devices gradient methods)

ASAN="-fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer"

# engine_tests [EXCLUDED...]: names of all test/engine/test_*.c but these, the slowest first.
engine_tests() {
    local name source
    for name in "${SLOW_ENGINE_TESTS[@]}"; do
        [[ " $* " == *" $name "* ]] || [ ! -e "test/engine/test_$name.c" ] || echo "$name"
    done
    for source in test/engine/test_*.c; do
        name=$(basename "$source" .c)
        name=${name#test_}
        [[ " $* ${SLOW_ENGINE_TESTS[*]} " == *" $name "* ]] || echo "$name"
    done
}

# run_engine_tests PART FLAVOR NAMES [MAKE-VARIABLE...]: builds and runs these tests. $TEST_ENV are assignments for them.
run_engine_tests() {
    local part=$1 flavor=$2 name names
    read -d '' -ra names <<<"$3" || true
    shift 3
    make_engine "$part" FLAVOR="$flavor" "$@" "${names[@]/#/build/$flavor/test/test_}" || return 0
    new_jobs
    for name in "${names[@]}"; do
        add_job "test_$name" env "${TEST_ENV[@]}" "build/$flavor/test/test_$name"
    done
    run_jobs
    count_cmocka "$part"
}

TEST_ENV=()

test_engine() {
    part "engine: unit and golden tests"
    run_engine_tests engine release "$(engine_tests)" WERROR=-Werror
}

test_engine_quick() {
    part "engine: the fast ones"
    run_engine_tests engine_quick release "$(engine_tests "${NOT_QUICK_ENGINE_TESTS[@]}")" WERROR=-Werror
}

# The engine takes the best variant of its kernels; this runs every one that the processor has.
test_variants() {
    part "variants: each build of the kernels"
    local variant name info skipped=0
    local programs=(gradient methods variants golden attention_shapes state_attention device kernels_{matmul,attention,cpu,rows,bottlenecks,prefix,int8})
    make_engine variants WERROR=-Werror build/release/ia3_engine "${programs[@]/#/build/release/test/test_}" || return 0
    new_jobs
    while read -r variant; do
        info=$(IA3_CPU_ISA=$variant build/release/ia3_engine info --backbone test/backbone 2>&1) || true
        if [[ $info == *"does not support $variant,"* ]]; then
            skipped=$((skipped + 1))
            continue
        fi
        # what is said to be used has to be what was asked for
        if ! grep -qE "^device.*, $variant, " <<<"$info"; then
            add_job "$variant" printf '%s\n' "$info" '[  FAILED  ] 1 test'
            continue
        fi
        for name in "${programs[@]}"; do
            add_job "$variant-test_$name" env "IA3_CPU_ISA=$variant" "build/release/test/test_$name"
        done
    done < <(grep -oE '\([a-z0-9]+\)' build/release/kernels/cpu_variants.h | tr -d '()')
    run_jobs
    count_cmocka variants "$skipped"
    test_spills
    test_vectorised
}

# Whether scripts/spills.pl finds the loop of test/spills.c that keeps vectors on the stack, and nothing else, in what a
# compiler makes of it. finds_spills COMPILER
finds_spills() {
    local object=$IA3_TMP/spills.o log=$IA3_TMP/spills.log
    "$1" -std=gnu11 -O3 -Wno-psabi -mavx2 -mfma -c -o "$object" test/spills.c || return 1
    if scripts/spills.pl "$object" >"$log" || ! grep -q ': keeps: ' "$log" || grep -q ': fits: ' "$log"; then
        echo "scripts/spills.pl does not find the loop that $1 has spilled:"
        cat "$log"
        return 1
    fi
    "$1" -std=gnu11 -O3 -Wno-psabi -mavx2 -mfma -mavx512f -mavx512vl -c -o "$object" test/spills.c &&
        scripts/spills.pl "$object"
}

# No loop of a kernel keeps vectors on the stack, in any variant, whether or not this processor has it. What clang makes
# of the kernels is looked at by scripts/lint, which compiles them with it.
test_spills() {
    local kernels compiler passed=0 failed=0
    if [ "$(uname -m)" != x86_64 ]; then
        skip "scripts/spills.pl reads only instructions of x86-64"
        return 0
    fi
    for compiler in gcc clang-14; do
        command -v "$compiler" >/dev/null || continue
        if finds_spills "$compiler"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    done
    for kernels in build/release/kernels/cpu-*/; do
        if scripts/spills.pl "$kernels"*.o; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
    done
    count spills "$passed" "$failed" 0
}

# Loops that say that their rounds are independent (IA3_INDEPENDENT) are vectorised, in any variant. A loop that looks at
# a variable in each round is not, and then takes ten times as long without a word from the compiler.
test_vectorised() {
    local kernels object file files lines passed=0 failed=0
    if ! gcc --version 2>/dev/null | grep -q 'Free Software Foundation'; then
        skip "only gcc says which loops it has not vectorised"
        return 0
    fi
    mapfile -t files < <(grep -l '^ *IA3_INDEPENDENT$' kernels/cpu/*.c)
    for kernels in build/release/kernels/cpu-*/; do
        for file in "${files[@]}"; do
            object=${kernels/release/vectorised}$(basename "$file" .c).o
            rm -f "$object"
            make -s -f src/engine/engine.mk FLAVOR=vectorised ENGINE_CC=gcc DEBUG_INFO=-fopt-info-vec-missed "$object" \
                >"$IA3_TMP/vectorised.log" 2>&1 || true
            # the line after each mark is the loop's
            lines=$(awk '/^ *IA3_INDEPENDENT$/ { printf "%s%d", n++ ? "|" : "", NR + 1 }' "$file")
            if [ -f "$object" ] && ! grep -E "^$file:($lines):.*couldn't vectorize loop" "$IA3_TMP/vectorised.log"; then
                passed=$((passed + 1))
            else
                failed=$((failed + 1))
                [ -f "$object" ] || tail -5 "$IA3_TMP/vectorised.log"
            fi
        done
    done
    count vectorised "$passed" "$failed" 0
}

test_sanitizers() {
    part "sanitizers: the engine's tests again"
    TEST_ENV=(UBSAN_OPTIONS=print_stacktrace=1)
    # with -O3 some files of kernels take five times as long to compile, and the tests are no faster
    run_engine_tests sanitizers asan "$(engine_tests)" SANITIZE="$ASAN" OPTFLAGS="-march=native -O2"
    TEST_ENV=()
}

# Threads: the engine's server, the CPU device and its pool.
test_tsan() {
    part "tsan: the server, devices and threads under ThreadSanitizer"
    TEST_ENV=("TSAN_OPTIONS=halt_on_error=1 history_size=7 suppressions=$IA3_ROOT/test/tsan.supp")
    run_engine_tests tsan tsan "server server_faults server_generate drain cache kernels_cpu devices train" \
        SANITIZE=-fsanitize=thread
    TEST_ENV=()
}

# What reads files and messages from outside, fed with anything: all targets together for a minute.
test_fuzz() {
    part "fuzz: readers of files and messages"
    local target targets
    command -v "${CLANG:=clang-14}" >/dev/null || CLANG=clang
    if ! echo 'int LLVMFuzzerTestOneInput(const char *p, long n) { return !p && n; }' |
        "$CLANG" -x c -fsanitize=fuzzer -o "$IA3_TMP/fuzzer" - 2>/dev/null; then
        skip "$CLANG has no libFuzzer (Debian: libclang-rt-14-dev)"
        return
    fi
    if ! CLANG=$CLANG test/fuzz/run --build >"$IA3_TMP/fuzz-build.log" 2>&1; then
        tail -40 "$IA3_TMP/fuzz-build.log"
        count fuzz 0 1 0
        return
    fi
    grep -E '^skipped |not instrumented' "$IA3_TMP/fuzz-build.log" || true
    targets=$(test/fuzz/run --list 2>/dev/null)
    new_jobs
    for target in $targets; do
        add_job "fuzz_$target" env "FUZZ_SECONDS=$((60 / $(wc -w <<<"$targets")))" test/fuzz/run --built "$target"
    done
    run_jobs
    count_jobs fuzz '^#' 's/^[a-z_]+: [0-9]+ inputs, no finding$/1/p' 's/^never$//p' 's/^never$//p'
}

test_gpu_check() {
    part "gpu_check: scripts/gpu-check on the CPU"
    local log=$IA3_TMP/gpu-check.log status=0 failed
    mkdir -p "$IA3_TMP/gpu-check"
    OUT=$IA3_TMP/gpu-check scripts/gpu-check --self-test >"$log" 2>&1 </dev/null || status=$?
    failed=$(sum "$log" 's/^[0-9]+ passed, ([0-9]+) failed$/\1/p')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ "$failed" = 0 ] || cat "$log"
    count gpu_check "$(sum "$log" 's/^([0-9]+) passed, [0-9]+ failed$/\1/p')" "$failed" \
        "$(matches "$log" '^skipped: ')"
}

# run_lint PART [OPTION]
run_lint() {
    local log=$IA3_TMP/lint.log failed
    "$IA3_ROOT/scripts/lint" "${@:2}" >"$log" 2>&1 || true
    grep -vE '^ok ' "$log" || true
    # lint that reports nothing at all has died
    failed=$(matches "$log" '^not ok ')
    grep -q '^lint: ' "$log" || failed=$((failed + 1))
    count "$1" "$(matches "$log" '^ok ')" "$failed" "$(matches "$log" '^skipped ')"
}

test_lint() {
    part "lint"
    if [ -n "$ENGINE_IS_FRESH" ]; then
        run_lint lint --built
    else
        run_lint lint
    fi
}

test_lint_fast() {
    part "lint, without the builds"
    run_lint lint_fast --fast
}
