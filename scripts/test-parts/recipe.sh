# shellcheck shell=bash
#
# recipe.sh: the part of scripts/test that runs the tests of what makes the bundled backbone, and of what scripts/raft
# and scripts/paper report. Sourced by it.

test_recipe() {
    part "recipe: what makes ia3-mini, with tiny settings, and what scripts/raft and scripts/paper report"
    local log=$IA3_TMP/recipe.log status=0 ran failed skipped folder
    for folder in models/ia3-mini/recipe test/raft test/paper; do
        (cd "$folder" && PYTHONDONTWRITEBYTECODE=1 timeout "$TEST_TIMEOUT" "${PYTHON:-python3}" -m unittest \
            discover -p 'test_*.py') >>"$log" 2>&1 </dev/null || status=$?
    done
    ran=$(sum "$log" 's/^Ran ([0-9]+) tests? .*/\1/p')
    failed=$(($(sum "$log" 's/^FAILED \(.*failures=([0-9]+).*/\1/p') + $(sum "$log" 's/^FAILED \(.*errors=([0-9]+).*/\1/p')))
    skipped=$(sum "$log" 's/^(OK|FAILED) \(.*skipped=([0-9]+).*/\2/p')
    [ "$status" = 0 ] || [ "$failed" -gt 0 ] || failed=1
    [ "$failed" = 0 ] || cat "$log"
    count recipe "$((ran > failed + skipped ? ran - failed - skipped : 0))" "$failed" "$skipped"
}
