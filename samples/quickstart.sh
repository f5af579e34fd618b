#!/usr/bin/env bash
# quickstart.sh: from a bare machine (Debian 12 or newer; a C compiler, git and python3) to a quantized model that runs.
# Installs what is missing, builds Octet, compiles samples/digits/digits.onnx to a float and an INT8 executable, runs both on
# 360 scanned digits and compares accuracy, size and time. A second run builds nothing again. Everything lies under build/.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/quickstart
digits=samples/digits
cc=${CC:-cc}
section() { printf '\n== %s\n' "$1"; }
bytes() { wc -c < "$1" | tr -d ' '; }

section "1. what Octet is built with"
bash cmake/bootstrap.sh
echo "all packages are there"

section "2. building Octet (build/release)"
mkdir -p "$out" build/logs
{ cmake --preset release -DOCTET_TESTS=OFF && cmake --build --preset release; } > build/logs/quickstart 2>&1 ||
  { tail -n 40 build/logs/quickstart; exit 1; }
octet=build/release/octet
"$octet" --version

section "3. the model"
"$octet" inspect "$digits/digits.onnx"

section "4. compiling it: float, and INT8 calibrated with 64 images"
"$octet" compile "$digits/digits.onnx" -o "$out/digits_fp32"
"$octet" compile "$digits/digits.onnx" -o "$out/digits_int8" --quantize int8 --calibrate "$digits/calibration" --report "$out/report.json"
"$out/digits_int8" --help

section "5. predictions of the INT8 executable"
$cc -std=c11 -O2 -Wall "$digits/score.c" -o "$out/score"
for kind in fp32 int8; do "$out/digits_$kind" --input "$digits/images.npz" --output "$out/$kind.npz"; done
"$out/score" "$out/int8.npz" "$digits/labels.npy" --show "$digits/images.npz" 3 --least 95

section "6. float and INT8 side by side"
row='%-18s %-26s %-26s\n'
accuracy() { "$out/score" "$out/$1.npz" "$digits/labels.npy" --least 95; }
latency() { "$out/digits_$1" --bench | sed -n 's/.*median \(.*\), best.*/\1/p'; }
a32=$(accuracy fp32)
a8=$(accuracy int8)
t32=$(latency fp32)
t8=$(latency int8)
level=$("$out/digits_int8" --bench | sed -n 's/.*(\(.*\)):.*/\1/p')
[ -n "$t32" ] && [ -n "$t8" ] || { echo "no latency was measured" >&2; exit 1; }
# shellcheck disable=SC2059
{
  printf "$row" "" "float" "INT8"
  printf "$row" "accuracy" "$a32" "$a8"
  printf "$row" "executable, bytes" "$(bytes "$out/digits_fp32")" "$(bytes "$out/digits_int8")"
  printf "$row" "one image, median" "$t32" "$t8"
}
echo "instruction set chosen on this machine: $level; the model file has $(bytes "$digits/digits.onnx") bytes"
for kind in fp32 int8; do "$out/digits_$kind" --selftest > /dev/null; done

section "done"
echo "the command is $octet; octet --help lists what it does, README.md says more"
