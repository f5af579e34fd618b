#!/bin/sh
# run.sh OCTET [FILE...]: replays the golden files. Each begins with the arguments of one command, "$ octet ARGUMENTS"; the
# rest is its exit code and what it printed. Paths are relative to the repository. BLESS=1 rewrites the files instead.
set -u
root=$(cd "$(dirname "$0")/../.." && pwd)
octet=${1:?usage: run.sh OCTET [FILE...]}
case $octet in /*) ;; *) octet=$PWD/$octet ;; esac
shift
[ $# -gt 0 ] || set -- "$root"/tests/golden/*/*.txt
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
failed=0
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
    fi
done
[ $failed -eq 0 ] || { echo "$failed golden files differ (BLESS=1 accepts)"; exit 1; }
