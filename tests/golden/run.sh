#!/bin/sh
# run.sh [OCTET [FILE...]] (octet on the PATH): replays the golden commands (diag/, graph/; the unit program reads the others). Each begins with the arguments of one command, "$ octet ARGUMENTS"; the
# rest is its exit code and what it printed. Paths are relative to the repository. BLESS=1 rewrites the files instead. Closes with the totals.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
octet=$(command -v "${1:-octet}") || { echo "no octet: ${1:-}"; echo "0 passed, 1 failed"; exit 1; }
case $octet in /*) ;; *) octet=$PWD/$octet ;; esac
[ $# -eq 0 ] || shift
[ $# -gt 0 ] || set -- "$root"/tests/golden/diag/*.txt "$root"/tests/golden/graph/*.txt
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0 passed=0
for file in "$@"; do
    arguments=$(sed -n '1s/^\$ octet //p' "$file")
    {
        printf '$ octet %s\n' "$arguments"
        cd "$root" && TMPDIR=$work sh -c "\"\$0\" $arguments" "$octet" >"$work/out" 2>"$work/err" </dev/null
        printf 'exit %d\n' $?
        [ ! -s "$work/out" ] || { echo '--- stdout'; cat "$work/out"; }
        [ ! -s "$work/err" ] || { echo '--- stderr'; cat "$work/err"; }
    } >"$work/got"
    if [ "${BLESS:-}" = 1 ]; then
        cmp -s "$work/got" "$file" || { cp "$work/got" "$file"; echo "blessed $file"; }
    elif ! diff -u "$file" "$work/got"; then
        echo "FAIL $file"
        failed=$((failed + 1))
    else
        passed=$((passed + 1))
    fi
done
[ "${BLESS:-}" = 1 ] || echo "$passed passed, $failed failed"
[ $failed -eq 0 ]
