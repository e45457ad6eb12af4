# shellcheck shell=bash
#
# drivers.sh: the parts of scripts/test that call ia3 through Python's drivers. Sourced by it.

# The Python drivers, in the versions of test/drivers/requirements.txt, and beside them those of Debian for Node.js and
# Java, unpacked and not installed. What is there already is not fetched again. False if PyPI cannot be reached.
get_drivers() {
    local venv=$1 list=test/drivers/requirements.txt log=$IA3_TMP/drivers-get.log
    if ! cmp -s "$list" "$venv/requirements.txt"; then
        python3 -c 'import ensurepip, venv' 2>/dev/null || scripts/setup python3 python3-venv || return 1
        {
            python3 -m venv "$venv" &&
                "$venv/bin/pip" install -q --disable-pip-version-check --retries 1 --timeout 20 -r "$list"
        } >"$log" 2>&1 || {
            tail -n 1 "$log"
            return 1
        }
        cp "$list" "$venv/"
    fi
    if command -v javac >/dev/null; then
        get_debian_package "$venv" libpostgresql-jdbc-java
    fi
    if command -v node >/dev/null; then
        get_debian_package "$venv" node-pg
        get_debian_package "$venv" node-split2 # which it needs
    fi
}

# get_debian_package DIRECTORY NAME: unpacks it to DIRECTORY/debian; says so if it cannot be had.
get_debian_package() {
    local directory=$1/debian
    [ ! -e "$directory/$2" ] || return 0
    mkdir -p "$directory/get"
    rm -f "$directory"/get/*
    if (cd "$directory/get" && apt-get download "$2") >/dev/null 2>&1 && dpkg -x "$directory"/get/*.deb "$directory"; then
        touch "$directory/$2"
    else
        echo "cannot get the package $2"
    fi
}

test_drivers() {
    part "drivers: every function through psycopg2, psycopg and asyncpg; the examples of docs/drivers.md"
    local venv=$IA3_ROOT/.venv-drivers log=$IA3_TMP/drivers.log status=0 failed skipped
    if ! get_drivers "$venv"; then
        skip "the drivers cannot be had from PyPI"
        return
    fi
    need_cluster
    NODE_PATH=$venv/debian/usr/share/nodejs IA3_JDBC=$venv/debian/usr/share/java/postgresql.jar PYTHONDONTWRITEBYTECODE=1 \
        "$venv/bin/python" test/drivers/run.py --socket "$IA3_SOCKET" >"$log" 2>&1 </dev/null || status=$?
    failed=$(matches "$log" '^not ok ')
    skipped=$(matches "$log" '^ok [0-9]+.* # SKIP ')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    if [ "$failed" = 0 ]; then
        sed -n 's/^ok [0-9]* - \(.*\) # SKIP \(.*\)/skipped: \1: \2/p' "$log"
    else
        grep -v '^ok ' "$log"
    fi
    count drivers "$(($(matches "$log" '^ok [0-9]+') - skipped))" "$failed" "$skipped"
}

test_paper() {
    part "paper: the experiments of the T-Few paper on small files"
    local venv=$IA3_ROOT/.venv-drivers log=$IA3_TMP/paper.log status=0 failed
    if ! get_drivers "$venv"; then
        skip "psycopg2 cannot be had from PyPI"
        return
    fi
    need_cluster
    PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" test/paper/run.py --socket "$IA3_SOCKET" >"$log" 2>&1 </dev/null || status=$?
    failed=$(matches "$log" '^not ok ')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ "$failed" = 0 ] || grep -v '^ok ' "$log"
    count paper "$(matches "$log" '^ok [0-9]+')" "$failed" 0
}
