# shellcheck shell=bash
#
# common.sh: what scripts/demo, scripts/test, scripts/bench and scripts/raft share. Sourced, never run.
#
#   - builds and installs ia3 for one PostgreSQL (PG_CONFIG)
#   - makes a private cluster in a temporary directory: Unix socket only, ia3 preloaded, run by the
#     unprivileged user postgres when the caller is root; stopped and removed on exit, whatever happens
#
# No other cluster of the machine is touched. After ia3_cluster_start, ia3_psql talks to the cluster.

set -euo pipefail

IA3_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
IA3_TMP=
IA3_SOCKET=
IA3_BINDIR=

ia3_say() {
    printf '\n== %s\n' "$*"
}

ia3_die() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

# Runs a command with the rights of root.
ia3_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        ia3_die "needs root or sudo for: $*"
    fi
}

# Finds the PostgreSQL to build for; PG_CONFIG in the environment wins.
ia3_find_postgres() {
    if [ -z "${PG_CONFIG:-}" ]; then
        PG_CONFIG=/usr/lib/postgresql/15/bin/pg_config
        [ -x "$PG_CONFIG" ] || PG_CONFIG=$(command -v pg_config) || ia3_die "no pg_config; set PG_CONFIG"
    fi
    export PG_CONFIG
    IA3_BINDIR=$("$PG_CONFIG" --bindir)
}

ia3_jobs() {
    getconf _NPROCESSORS_ONLN 2>/dev/null || echo 1
}

ia3_build() {
    ia3_say "building for $("$PG_CONFIG" --version)"
    make -C "$IA3_ROOT" --no-print-directory -s -j "$(ia3_jobs)" PG_CONFIG="$PG_CONFIG"
}

# Runs a command with the right to write into PostgreSQL's directories.
ia3_installer() {
    if [ -w "$("$PG_CONFIG" --pkglibdir)" ]; then
        "$@" >/dev/null
    else
        ia3_root "$@" >/dev/null
    fi
}

ia3_install() {
    ia3_installer make -C "$IA3_ROOT" --no-print-directory -s install PG_CONFIG="$PG_CONFIG"
}

# ia3_install_library FILE: in the place of ia3.so.
ia3_install_library() {
    ia3_installer install -m 755 "$1" "$("$PG_CONFIG" --pkglibdir)/ia3.so"
}

# Runs a command as the user that owns the cluster (PostgreSQL refuses to run as root).
ia3_as_owner() {
    if [ "$(id -u)" = 0 ]; then
        (cd "$IA3_TMP" && runuser -u postgres -- "$@")
    else
        (cd "$IA3_TMP" && "$@")
    fi
}

# A private directory that is removed on exit. The caller's INT and TERM become an ordinary exit, so that the
# cluster never outlives the script.
ia3_make_tmp() {
    IA3_TMP=$(mktemp -d /tmp/ia3.XXXXXX)
    trap ia3_cleanup EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ "$(id -u)" = 0 ]; then
        id postgres >/dev/null 2>&1 || ia3_die "there is no user postgres to run a cluster"
        chown postgres: "$IA3_TMP"
    fi
}

# Stops the cluster, if there is one, and removes it.
ia3_cluster_stop() {
    if [ -f "$IA3_TMP/data/postmaster.pid" ]; then
        ia3_as_owner "$IA3_BINDIR/pg_ctl" -D "$IA3_TMP/data" -m immediate -t 60 -w stop \
            >/dev/null 2>&1 || echo "could not stop the cluster in $IA3_TMP/data" >&2
    fi
    rm -rf "$IA3_TMP/data"
}

ia3_cleanup() {
    local status=$?
    trap - EXIT
    trap '' INT TERM
    if [ -n "$IA3_TMP" ] && [ -d "$IA3_TMP" ]; then
        ia3_cluster_stop
        ${IA3_ON_EXIT:-true}
        rm -rf "$IA3_TMP"
    fi
    exit "$status"
}

# ia3_cluster_start [SETTING...]: a cluster with ia3 preloaded; settings are lines of postgresql.conf. Only its
# owner and root can reach it: the directory and the socket are closed to others. IA3_POSTGRES is a program to run in
# the place of postgres.
# shellcheck disable=SC2120
ia3_cluster_start() {
    [ -n "$IA3_TMP" ] || ia3_make_tmp
    IA3_SOCKET=$IA3_TMP
    ia3_as_owner "$IA3_BINDIR/initdb" -D "$IA3_TMP/data" -U postgres -A trust -E UTF8 --locale=C.UTF-8 \
        --no-sync >"$IA3_TMP/initdb.log" 2>&1 || {
        cat "$IA3_TMP/initdb.log"
        ia3_die "initdb failed"
    }
    {
        echo "shared_preload_libraries = 'ia3'"
        echo "listen_addresses = ''"
        echo "unix_socket_directories = '$IA3_SOCKET'"
        echo "unix_socket_permissions = 0700"
        echo "fsync = off"
        echo "logging_collector = off"
        printf '%s\n' "$@"
    } >>"$IA3_TMP/data/postgresql.conf"
    ia3_as_owner "$IA3_BINDIR/pg_ctl" -D "$IA3_TMP/data" -l "$IA3_TMP/server.log" -w -t 600 \
        ${IA3_POSTGRES:+-p "$IA3_POSTGRES"} start \
        >/dev/null || {
        cat "$IA3_TMP/server.log"
        ia3_die "the private cluster does not start"
    }
}

ia3_psql() {
    "$IA3_BINDIR/psql" -X -q -h "$IA3_SOCKET" -U postgres -v ON_ERROR_STOP=1 "$@"
}
