# shellcheck shell=bash
#
# database.sh: the parts of scripts/test that need PostgreSQL. Sourced by it.

pgxs_file() {
    echo "$(dirname "$("$PG_CONFIG" --pgxs)")/../../src/test/$1"
}

# The backbone of the tests in $IA3_TMP/backbone, where the cluster's owner can read it.
copy_backbone() {
    [ ! -e "$IA3_TMP/backbone" ] || return 0
    cp -r "$IA3_ROOT/test/backbone" "$IA3_TMP/backbone"
    [ "$(id -u)" != 0 ] || chown -R postgres: "$IA3_TMP/backbone"
}

# start_cluster [SETTING...]: with this backbone, so that no result depends on the one that ia3 comes with.
start_cluster() {
    copy_backbone
    ia3_cluster_start "ia3.backbones = 'default=$IA3_TMP/backbone'" "ia3.watch_attempts = 2" "$@"
}

need_cluster() {
    [ -f "$IA3_TMP/data/postmaster.pid" ] || start_cluster
}

# The cluster's owner may not be able to read the checkout: tests run from a copy.
copy_for_owner() {
    local name
    for name in "$@"; do
        rm -rf "$IA3_TMP/${name:?}"
        cp -r "$IA3_ROOT/$name" "$IA3_TMP/$name"
        [ "$(id -u)" != 0 ] || chown -R postgres: "$IA3_TMP/$name"
    done
}

# Parts that use the cluster one after the other, and of the cores hardly more than one. They run beside `tap`, whose tests
# mostly wait. begin_beside PART...: starts them; they write to a file. finish_beside shows it, and adds up their counts.
begin_beside() {
    need_cluster # here, so that it is known to what comes later
    BESIDE=$IA3_TMP/beside.log
    (
        # shellcheck disable=SC2030  # finish_beside reads them from a file
        PASSED=0 FAILED=0 SKIPPED=0
        for name in "$@"; do
            "test_$name"
        done
        echo "$PASSED $FAILED $SKIPPED" >"$BESIDE.counts"
    ) >"$BESIDE" 2>&1 </dev/null &
    BESIDE_PID=$!
    IA3_ON_EXIT="kill $BESIDE_PID"
}

finish_beside() {
    local passed failed skipped
    wait "$BESIDE_PID" || true
    # shellcheck disable=SC2034  # see common.sh
    IA3_ON_EXIT=
    cat "$BESIDE"
    read -r passed failed skipped <"$BESIDE.counts" || { # it has died
        echo "-- $(grep '^== ' "$BESIDE" | tail -n 1): died"
        passed=0 failed=1 skipped=0
    }
    # shellcheck disable=SC2031  # as above
    PASSED=$((PASSED + passed)) FAILED=$((FAILED + failed)) SKIPPED=$((SKIPPED + skipped))
}

# run_regress PART: the regression tests on the cluster; sets REGRESS_PASSED and REGRESS_FAILED.
run_regress() {
    local log=$IA3_TMP/regress.log status=0 tests=() file
    copy_for_owner sql expected
    rm -rf "$IA3_TMP/results" "$IA3_TMP/regression.diffs"
    for file in sql/*.sql; do
        case $file in
            sql/ia3--*) ;; # the extension's own scripts
            *) [[ -n ${REGRESS:-} && " $REGRESS " != *" $(basename "$file" .sql) "* ]] || tests+=("$(basename "$file" .sql)") ;;
        esac
    done
    [ ${#tests[@]} -gt 0 ] || ia3_die "there are no regression tests"
    need_cluster
    ia3_as_owner "$(pgxs_file regress/pg_regress)" --inputdir="$IA3_TMP" --outputdir="$IA3_TMP" \
        --bindir="$IA3_BINDIR" --host="$IA3_SOCKET" --user=postgres --dbname=ia3_regression \
        --load-extension=ia3 "${tests[@]}" >"$log" 2>&1 || status=$?
    # "test name ... ok" up to PostgreSQL 15, "ok 1 - name" since 16
    REGRESS_PASSED=$(matches "$log" '^(test .* \.\.\. ok|ok [0-9]+ )')
    REGRESS_FAILED=$(matches "$log" '^(test .* \.\.\. FAILED|not ok [0-9]+ )')
    [ "$status" = 0 ] || [ "$REGRESS_FAILED" -gt 0 ] || REGRESS_FAILED=1
    if [ "$REGRESS_FAILED" -gt 0 ]; then
        cat "$log"
        [ ! -e "$IA3_TMP/regression.diffs" ] || cat "$IA3_TMP/regression.diffs"
        echo "---- the server's log:"
        tail -n 30 "$IA3_TMP/server.log"
    fi
}

test_regress() {
    part "regress: the SQL interface"
    run_regress
    count regress "$REGRESS_PASSED" "$REGRESS_FAILED" 0
}

# The same with assertions in the extension's own code and in what it takes from PostgreSQL's headers. The server is the
# ordinary one, so the library is put in the place of the ordinary one for as long as this takes.
test_asserts() {
    part "asserts: the regression tests with assertions in the extension"
    local build=$IA3_TMP/asserts log=$IA3_TMP/asserts.log
    rm -rf "$build"
    mkdir "$build"
    git -C "$IA3_ROOT" ls-files -z Makefile ia3.control sql src kernels | (cd "$IA3_ROOT" && xargs -0 cp --parents -t "$build")
    if ! make -C "$build" --no-print-directory -s -j "$(ia3_jobs)" PG_CONFIG="$PG_CONFIG" \
        PG_CPPFLAGS="-Isrc -DUSE_ASSERT_CHECKING" ia3.so >"$log" 2>&1; then
        cat "$log"
        count asserts 0 1 0
        return
    fi
    if ! nm -D "$build/ia3.so" | grep ' U ExceptionalCondition$' >/dev/null; then
        echo "the library has no assertions"
        count asserts 0 1 0
        return
    fi
    ia3_cluster_stop
    IA3_ON_EXIT=ia3_install # whatever happens
    ia3_install_library "$build/ia3.so"
    run_regress
    ia3_cluster_stop
    ia3_install
    # shellcheck disable=SC2034  # see common.sh
    IA3_ON_EXIT=
    count asserts "$REGRESS_PASSED" "$REGRESS_FAILED" 0
}

# valgrind over the postmaster and all that it forks, but not over engines. Only errors with the extension on the stack
# count: PostgreSQL alone has some that are none, having been built without its own marks for valgrind.
test_valgrind() {
    part "valgrind: memory errors of backends during the regression tests"
    local logs=$IA3_TMP/valgrind errors file
    if ! command -v valgrind >/dev/null; then
        skip "there is no valgrind"
        return
    fi
    rm -rf "$logs"
    mkdir "$logs"
    cp test/valgrind.supp "$logs"
    cat >"$logs/postgres" <<END
#!/bin/sh
exec valgrind --quiet --trace-children=yes '--trace-children-skip=*/ia3_engine,*/sh' --leak-check=no --track-origins=yes \\
    --num-callers=30 --fullpath-after= --suppressions=$logs/valgrind.supp --log-file=$logs/%p.log "$IA3_BINDIR/postgres" "\$@"
END
    chmod 755 "$logs/postgres"
    [ "$(id -u)" != 0 ] || chown -R postgres: "$logs"
    ia3_cluster_stop
    IA3_POSTGRES=$logs/postgres start_cluster "jit = off"
    run_regress
    ia3_cluster_stop
    errors=0
    for file in "$logs"/*.log; do
        errors=$((errors + $(valgrind_errors "$file" "$logs/report")))
    done
    if [ "$errors" -gt 0 ]; then
        head -n 200 "$logs/report"
    fi
    count valgrind "$REGRESS_PASSED" "$((REGRESS_FAILED + errors))" 0
}

# valgrind_errors LOG REPORT: appends those errors whose stack goes through the extension, and prints their number. An
# error is a paragraph: lines are "==PID== text", paragraphs end with "==PID== ".
valgrind_errors() {
    sed -E 's/^==[0-9]+== ?//' "$1" | awk -v report="$2" '
        BEGIN { RS = ""; ORS = "\n\n" }
        /\(in [^)]*\/ia3\.so\)|\/src\/extension\// { n++; print >>report }
        END { printf "%d", n + 0 }'
}

test_templates() {
    part "templates: RAFT and few-shot files"
    local log=$IA3_TMP/templates.log status=0 failed
    need_cluster
    PGHOST=$IA3_SOCKET PGUSER=postgres PSQL=$IA3_BINDIR/psql test/templates/run >"$log" 2>&1 || status=$?
    if grep -q '^1\.\.0 # SKIP' "$log"; then
        skip "$(sed -n 's/^1\.\.0 # SKIP //p' "$log")"
        return
    fi
    failed=$(matches "$log" '^not ok ')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ "$failed" = 0 ] || cat "$log"
    count templates "$(matches "$log" '^ok [0-9]+')" "$failed" 0
}

test_interchange() {
    part "interchange: transformers and peft"
    local log=$IA3_TMP/interchange.log status=0 failed
    need_cluster
    "${PYTHON:-python3}" test/interchange/run.py --psql "$IA3_BINDIR/psql" --socket "$IA3_SOCKET" \
        --work "$IA3_TMP" >"$log" 2>&1 </dev/null || status=$?
    # 77: a library is missing; 127: there is no Python at all
    if [ "$status" = 77 ] || [ "$status" = 127 ]; then
        skip "$(tail -n 1 "$log")"
        return
    fi
    failed=$(matches "$log" '^not ok ')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ "$failed" = 0 ] || grep -v '^ok ' "$log"
    count interchange "$(matches "$log" '^ok [0-9]+')" "$failed" 0
}

test_docs() {
    part "docs: the blocks of docs/sql.md"
    local log=$IA3_TMP/docs.log status=0 failed
    need_cluster
    PGHOST=$IA3_SOCKET PGUSER=postgres PSQL=$IA3_BINDIR/psql test/docs/run.pl >"$log" 2>&1 || status=$?
    failed=$(matches "$log" '^not ok ')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ "$failed" = 0 ] || grep -v '^ok ' "$log"
    count docs "$(matches "$log" '^ok [0-9]+')" "$failed" 0
}

# The longest are started first. Each file makes clusters of its own in a directory of its own. $TAP names some files.
SLOW_TAP_TESTS="005_devices 004_backbones 010_batching 003_settings 013_sharing 014_dump 002_interrupt"

test_tap() {
    part "tap: crashes, cancellation, restarts"
    local module=build/release/ia3_cuda_sim.so file name owner=(env)
    # the GPU of some tests, simulated
    make_engine tap WERROR=-Werror "$module" || return 0
    copy_for_owner test
    install -m 755 "$module" "$IA3_TMP/test/ia3_cuda_sim.so"
    # PostgreSQL's own test library looks for it
    ln -sfn "$IA3_TMP/test" "$IA3_TMP/tests"
    ls "$IA3_TMP"/test/t/*.pl >/dev/null 2>&1 || ia3_die "there are no TAP tests"
    [ "$(id -u)" != 0 ] || owner=(runuser -u postgres -- env)
    new_jobs
    for name in ${TAP:-$SLOW_TAP_TESTS $(cd test/t && ls ./*.pl)}; do
        name=$(basename "$name" .pl)
        file=$IA3_TMP/test/t/$name.pl
        [ ! -e "$JOBS/$name.sh" ] || continue
        add_job "$name" env -C "$IA3_TMP/test" "${owner[@]}" "PATH=$IA3_BINDIR:$PATH" \
            "PG_REGRESS=$(pgxs_file regress/pg_regress)" "PERL5LIB=$(pgxs_file perl):$IA3_TMP/test/perl" \
            "PG_CONFIG=$PG_CONFIG" PGPORT=65432 "IA3_TEST_CUDA_MODULE=$IA3_TMP/test/ia3_cuda_sim.so" \
            "TESTDIR=$IA3_TMP/test" "TESTDATADIR=$IA3_TMP/test/tmp_check" \
            "TESTLOGDIR=$IA3_TMP/test/tmp_check/log" prove -v "$file"
    done
    run_jobs 1 # they mostly wait
    count_tap tap
    # what the clusters of failed tests said
    while read -r name; do
        ! grep -qs '^0 ' "$JOBS/$name.status" || continue
        for file in "$IA3_TMP/test/tmp_check/log/$name"*; do
            [ ! -e "$file" ] || { echo "---- $(basename "$file")" && tail -n 40 "$file"; }
        done
    done <"$JOBS/list"
}
