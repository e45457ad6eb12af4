# shellcheck shell=bash
#
# jobs.sh: counting, and programs that run beside each other. Sourced by scripts/test.

PASSED=0
FAILED=0
SKIPPED=0
# A limit that only a program which hangs reaches, also under a sanitizer on a busy machine.
TEST_TIMEOUT=2400

part() {
    PART_START=$SECONDS
    ia3_say "$1"
}

# count PART PASSED FAILED SKIPPED: a part in which nothing ran has failed.
count() {
    [ "$(($2 + $3))" -gt 0 ] || set -- "$1 (nothing ran)" 0 1 "$4"
    PASSED=$((PASSED + $2))
    FAILED=$((FAILED + $3))
    SKIPPED=$((SKIPPED + $4))
    printf -- '-- %s: %d passed, %d failed, %d skipped (%d s)\n' "$1" "$2" "$3" "$4" "$((SECONDS - PART_START))"
}

# skip WHY...: a part that cannot run here.
skip() {
    echo "skipped: $*"
    SKIPPED=$((SKIPPED + 1))
}

# matches FILE REGEX: how many lines match, 0 included.
matches() {
    grep -cE "$2" "$1" || true
}

# sum FILE SED-SCRIPT: adds up the numbers that the script prints.
sum() {
    sed -nE "$2" "$1" | awk '{ n += $1 } END { print n + 0 }'
}

# make_engine PART [ARGUMENT...]: builds with the engine's Makefile; if that fails, the part has failed.
make_engine() {
    local name=$1 log=$IA3_TMP/make.log
    shift
    make --no-print-directory -s -f src/engine/engine.mk -j "$(ia3_jobs)" "$@" >"$log" 2>&1 || {
        cat "$log"
        count "$name" 0 1 0
        return 1
    }
}

# --- jobs: add_job for each, run_jobs, then one of the functions that count ---

# Forgets the jobs of before.
new_jobs() {
    JOBS=$IA3_TMP/jobs
    rm -rf "$JOBS"
    mkdir "$JOBS"
    : >"$JOBS/list"
}

# add_job NAME COMMAND...: the name is one word without a slash; the command may start with assignments, after `env`.
add_job() {
    printf 'exec %s\n' "$(printf '%q ' "${@:2}")" >"$JOBS/$1.sh"
    echo "$1" >>"$JOBS/list"
}

# run_jobs [MORE]: runs the jobs in their order, as many at a time as there are cores, and MORE. Each leaves NAME.log, in NAME.status its exit
# status and how many seconds it took, and in NAME.times what `times` says of its processor time.
run_jobs() {
    # shellcheck disable=SC2016  # for the inner shell
    xargs -P "$(($(ia3_jobs) + ${1:-0}))" -I '{}' bash -c '
        start=$SECONDS status=0
        timeout --kill-after=10 "$2" bash "$0/$1.sh" >"$0/$1.log" 2>&1 </dev/null &
        trap "kill $!" INT TERM HUP
        wait $! || status=$?
        times >"$0/$1.times"
        echo "$status $((SECONDS - start))" >"$0/$1.status"' \
        "$JOBS" '{}' "$TEST_TIMEOUT" <"$JOBS/list"
    # which programs are worth making faster
    [ -z "${IA3_TEST_TIMES:-}" ] || while read -r name; do
        printf '%4d s, %6.1f s of processor time: %s\n' "$(cut -d ' ' -f 2 "$JOBS/$name.status")" \
            "$(sed 's/m/ /g; s/s//g' "$JOBS/$name.times" | awk 'NR == 2 { print 60 * ($1 + $3) + $2 + $4 }')" "$name"
    done <"$JOBS/list"
}

# count_jobs PART FILTER PASSED FAILED SKIPPED [MORE-SKIPPED]: adds up what the three sed scripts find in the logs. A job
# that ends badly without reporting a failed test (a crash, a sanitizer, a time-out) is one failure more, and so is one
# that ran nothing. Logs of jobs that failed are shown, without lines that match the filter.
count_jobs() {
    local part=$1 filter=$2 name status ok bad left passed=0 failed=0 skipped=${6:-0} log
    while read -r name; do
        log=$JOBS/$name.log
        status=$(cut -d ' ' -f 1 "$JOBS/$name.status" 2>/dev/null) || status=lost
        ok=$(sum "$log" "$3") bad=$(sum "$log" "$4") left=$(sum "$log" "$5")
        [ "$status" = 0 ] || [ "$bad" -gt 0 ] || bad=1
        [ "$((ok + bad + left))" -gt 0 ] || bad=1
        passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + left))
        if [ "$bad" -gt 0 ]; then
            echo "---- $name (exit status $status)"
            grep -vE "$filter" "$log" | tail -n 80
        fi
    done <"$JOBS/list"
    count "$part" "$passed" "$failed" "$skipped"
}

# count_cmocka PART [SKIPPED]: cmocka prints its totals.
count_cmocka() {
    count_jobs "$1" '^\[( RUN  |       OK ) ' 's/^\[  PASSED  \] ([0-9]+) test.*/\1/p' \
        's/^\[  FAILED  \] ([0-9]+) test.*/\1/p' 's/^\[  SKIPPED \] ([0-9]+) test.*/\1/p' "${2:-0}"
}

# count_tap PART: lines "ok N" and "not ok N".
count_tap() {
    count_jobs "$1" '^ok ' '/# (SKIP|TODO)/d; s/^ok [0-9]+.*/1/p' '/# (SKIP|TODO)/d; s/^not ok [0-9]+.*/1/p' \
        's/^(ok|not ok) [0-9]+.*# (SKIP|TODO).*/1/p'
}
