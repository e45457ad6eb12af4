# shellcheck shell=bash
#
# experiment.sh: what scripts/raft and scripts/paper share. Sourced after common.sh, never run.

# ia3_experiment NAME FILE ARGUMENT...: runs scripts/NAME.py with the arguments, a server and the data. FILE, "|" between several, is what
# the data must have; without it this says so and succeeds. `--backbone NAME=DIRECTORY` names a checkpoint for the private cluster.
ia3_experiment() {
    local name=$1 needed=$2 data=${IA3_DATA:-$IA3_ROOT/../shared/data} previous='' argument file
    local venv=$IA3_ROOT/.venv settings=()
    shift 2
    for argument in "$@"; do
        case $argument in
            --data=*) data=${argument#--data=} ;;
            --backbone=*=*) settings=("ia3.backbones = '${argument#--backbone=}'") ;;
            -h | --help) exec python3 "$IA3_ROOT/scripts/$name.py" --help ;;
        esac
        [ "$previous" != --data ] || data=$argument
        [[ $previous != --backbone || $argument != *=* ]] || settings=("ia3.backbones = '$argument'")
        previous=$argument
    done
    IFS='|' read -ra files <<<"$needed"
    for file in "${files[@]}"; do
        if [ ! -e "$data/$file" ]; then
            echo "skipped: there is no $file in $data"
            exit 0
        fi
    done
    [ -n "${IA3_DSN:-}" ] || "$IA3_ROOT/scripts/setup"
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        "$IA3_ROOT/scripts/setup" python3 python3-venv
    fi
    if ! "$venv/bin/python" -c 'import sklearn, psycopg2' 2>/dev/null; then
        ia3_say "scikit-learn and psycopg2 in $venv"
        python3 -m venv "$venv"
        "$venv/bin/pip" install -q --disable-pip-version-check 'scikit-learn==1.5.2' 'psycopg2-binary==2.9.10'
    fi
    if [ -z "${IA3_DSN:-}" ]; then
        ia3_find_postgres
        ia3_build
        ia3_install
        ia3_cluster_start "${settings[@]}"
        ia3_psql -d postgres -c "CREATE DATABASE $name"
        IA3_DSN="host=$IA3_SOCKET user=postgres dbname=$name"
    fi
    ia3_say "$name"
    "$venv/bin/python" "$IA3_ROOT/scripts/$name.py" --dsn "$IA3_DSN" --data "$data" "$@"
}
