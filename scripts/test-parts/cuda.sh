# shellcheck shell=bash
#
# cuda.sh: the part `cuda` of scripts/test. Sourced by it.

# What kernels do, on a simulated GPU: kernels one by one, then whole models against transformers' results. Of the
# largest tests, which would take many minutes there, only some cases: TEST=FILTER.
CUDA_TESTS=("devices=devices: training t5-gated-untied f*" "devices=devices: scores t5-gated-untied*"
    "methods=*t5-relu-tied float32" "variants=*t5-relu-tied float32" "targets=*t5-relu-tied float32" "lora_vectors=*t5-relu-tied float32"
    "gradient=losses and gradients*" "gradient=20 steps t5-gated-untied*"
    golden multi_label attention_shapes generate load merge device kernels_{matmul,rows,bottlenecks,prefix,attention} train=jobs_are_independent)

test_cuda() {
    part "cuda: the CUDA module on a simulated GPU"
    local module=build/release/ia3_cuda_sim.so test name i=0
    make_engine cuda "$module" WERROR=-Werror || return 0
    for test in "${CUDA_TESTS[@]}"; do
        echo "build/release/test/test_${test%%=*}"
    done | sort -u >"$IA3_TMP/programs"
    # shellcheck disable=SC2046  # a list of words
    make_engine cuda $(cat "$IA3_TMP/programs") || return 0
    new_jobs
    for test in "${CUDA_TESTS[@]}"; do
        name=test_${test%%=*}
        if [[ $test == *=* ]]; then
            i=$((i + 1))
            add_job "$name-$i" env IA3_TEST_DEVICE=cuda "IA3_CUDA_MODULE=$IA3_ROOT/$module" \
                "IA3_TEST_FILTER=${test#*=}" "build/release/test/$name"
        else
            add_job "$name" env IA3_TEST_DEVICE=cuda "IA3_CUDA_MODULE=$IA3_ROOT/$module" "build/release/test/$name"
        fi
    done
    run_jobs
    count_cmocka cuda
    compile_for_gpus
}

# The module that `make` builds. What the compiler said is in files beside the objects (engine.mk).
compile_for_gpus() {
    part "cuda: compiled for GPUs"
    local nvcc source log=$IA3_TMP/nvcc.log
    nvcc=$(command -v nvcc || ls /usr/local/cuda/bin/nvcc 2>/dev/null || true)
    if [ -z "$nvcc" ]; then
        skip "there is no nvcc"
        return
    fi
    make_engine nvcc NVCC="$nvcc" WERROR=-Werror build/release/ia3_cuda.so || return 0
    for source in kernels/cuda/*.cu; do
        cat "build/release/${source%.cu}.o.log"
    done >"$log"
    # no register may spill, and no array lie in memory for being indexed at run time (but those of low ranks)
    awk '/Function properties for/ {name = $NF}
         /[1-9][0-9]* bytes spill/ || (/[1-9][0-9]* bytes stack frame/ && name !~ /methods_cu/) {print name, $0}
         /warning/' "$log" >"$log.bad"
    cat "$log.bad"
    grep -q 'Function properties for' "$log" || echo "the compiler has said nothing about registers" | tee "$log.bad"
    count nvcc 1 "$(wc -l <"$log.bad")" 0
}
