#!/usr/bin/env bash
# run.sh: builds Octet and runs all its tests, on a bare Debian 12 machine too. Closes with the totals.
# Everything it makes lies under build/. OCTET_TESTS_QUICK=1 leaves out the sanitizer build.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
bash cmake/bootstrap.sh tests || { echo "FAIL bootstrap: packages could not be installed"; exit 1; }
passed=0 failed=0
mkdir -p build/logs

# tally NAME: adds the last "N passed, N failed" line of build/logs/NAME to the totals; its absence is one failure.
tally() {
  local line
  line=$(grep -aE '^[0-9]+ passed, [0-9]+ failed' "build/logs/$1" | tail -n 1)
  if [ -z "$line" ]; then echo "FAIL $1: no totals"; tail -n 20 "build/logs/$1"; failed=$((failed + 1)); return; fi
  echo "$1: $line"
  grep -aE '^FAIL ' "build/logs/$1" | head -n 40
  passed=$((passed + $(echo "$line" | sed -E 's/^([0-9]+) passed.*/\1/')))
  failed=$((failed + $(echo "$line" | sed -E 's/.* ([0-9]+) failed.*/\1/')))
}

# check NAME COMMAND...: one test that is a command.
check() {
  local name=$1
  shift
  if "$@" > "build/logs/$name" 2>&1; then echo "ok $name"; passed=$((passed + 1));
  else echo "FAIL $name"; tail -n 30 "build/logs/$name"; failed=$((failed + 1)); fi
}

# units PRESET: the Criterion program of a build, with Criterion's own summary turned into our line.
units() {
  OCTET_BUILD="build/$1" "build/$1/tests/unit" --jobs 2 > "build/logs/unit-$1" 2>&1
  sed -nE 's/.*Tested: ([0-9]+) .*Passing: ([0-9]+) .*/\1 \2/p' "build/logs/unit-$1" | tail -n 1 |
    while read -r tested p; do echo "$p passed, $((tested - p)) failed" >> "build/logs/unit-$1"; done
  grep -aE '^\[(FAIL|CRASH)\]|Unexpected' "build/logs/unit-$1" | head -n 20
  tally "unit-$1"
}

echo "== build"
cmake --preset dev > build/logs/configure 2>&1 && cmake --build --preset dev > build/logs/build 2>&1 ||
  { tail -n 40 build/logs/configure build/logs/build; echo "0 passed, 1 failed"; exit 1; }
export PATH="$PWD/build/dev:$PATH"

echo "== units and rules"
check layers bash tests/layers.sh
units dev
for script in tests/golden/run.sh tests/docs/run.sh tests/cli/run.sh; do
  name=$(basename "$(dirname "$script")")
  bash "$script" > "build/logs/$name" 2>&1
  tally "$name"
done

echo "== official ONNX cases"
bash tests/onnx/run.sh > build/logs/onnx 2>&1
tally onnx

if [ "${OCTET_TESTS_QUICK:-}" != 1 ]; then
  echo "== address and undefined-behaviour sanitizers"
  if cmake --preset asan > build/logs/configure-asan 2>&1 && cmake --build --preset asan > build/logs/build-asan 2>&1; then
    export ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1
    units asan
  else
    tail -n 20 build/logs/build-asan; failed=$((failed + 1))
  fi
fi

echo "== samples"
check quickstart bash samples/quickstart.sh
bash tests/samples/run.sh > build/logs/samples-run 2>&1
tally samples-run

echo "$passed passed, $failed failed"
[ "$failed" = 0 ] && [ "$passed" -gt 0 ]
