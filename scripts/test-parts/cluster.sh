# shellcheck shell=bash
#
# cluster.sh: the part of scripts/test that runs several servers under Patroni. Sourced by it.

CLUSTER_PACKAGES="etcd-server patroni python3-etcd python3-psycopg2 haproxy pgbouncer"

test_cluster() {
    part "cluster: a primary and two standbys under Patroni, behind HAProxy and PgBouncer"
    local log=$IA3_TMP/cluster.log work=$IA3_TMP/cluster status=0 failed
    # shellcheck disable=SC2086
    if ! scripts/setup $CLUSTER_PACKAGES >"$log" 2>&1; then
        skip "$(tail -n 1 "$log")"
        return
    fi
    mkdir -p "$work"
    cp -r test/cluster "$work/test"
    cp -r test/backbone "$work/files"
    mkdir "$work/run"
    [ "$(id -u)" != 0 ] || chown -R postgres: "$work"
    ia3_as_owner env PYTHONDONTWRITEBYTECODE=1 /usr/bin/python3 "$work/test/run.py" --work "$work/run" --bin "$IA3_BINDIR" \
        --backbone "$work/files" --picture "$work/failover.svg" >"$log" 2>&1 </dev/null || status=$?
    failed=$(matches "$log" '^not ok ')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    if [ "$failed" = 0 ]; then
        grep -v '^ok \|^# second' "$log"
    else
        cat "$log"
    fi
    [ -z "${IA3_PICTURE:-}" ] || cp "$work/failover.svg" "$IA3_PICTURE"
    count cluster "$(matches "$log" '^ok [0-9]+')" "$failed" 0
}
