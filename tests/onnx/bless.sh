#!/usr/bin/env bash
# bless.sh: runs the official ONNX cases and rewrites expected-failures.tsv, NAME<TAB>REASON a line. A case that is refused
# gets the refusal as its reason. A case whose results differ, that crashes or hangs needs a reason written by a person:
# one that is in the list already stays, and without one this script fails and lists the cases.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/onnx/cases.sh
list=tests/onnx/expected-failures.tsv
run=$(mktemp)
trap 'rm -f "$run" "$run.new"' EXIT
octet verify --quiet --timeout 120 "$cases"/*/*/ > "$run" 2> /dev/null || true
tail -n 1 "$run"
touch "$list"
awk -v list="$list" '
  BEGIN {
    FS = "\t"
    while ((getline < list) > 0) old[$1] = $2
    print "# Official ONNX cases that Octet does not pass: NAME<TAB>REASON. Written by tests/onnx/bless.sh."
  }
  !/^FAIL / { next }
  {
    line = substr($0, 6); at = index(line, ": "); name = substr(line, 1, at - 1); why = substr(line, at + 2)
    if (!sub(/^model\.onnx: /, "", why) || why ~ /^error: output /) {
      if (!(name in old)) { print name ": " why > "/dev/stderr"; unexplained = 1 }
      print name "\t" old[name]
      next
    }
    sub(/ \(and [0-9]+ more\)$/, "", why)
    if (match(why, /^node [^(]*\(/)) {
      why = substr(why, RLENGTH + 1); op = substr(why, 1, match(why, /[,)]/) - 1); sub(/^[^)]*\): error: /, "", why); why = op ": " why
    }
    sub(/^error: /, "", why)
    if (why ~ /has no type that is known before it runs$/) why = op ": the sizes of its result depend on data"
    print name "\t" why
  }
  END { exit unexplained }' "$run" > "$run.new" || { echo "these need a reason in $list"; exit 1; }
cp "$run.new" "$list"
echo "$(grep -vc '^#' "$list") cases in $list"
