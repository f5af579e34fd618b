#!/usr/bin/env bash
# run.sh [OCTET] [OUT]: the digits model as an executable and as a shared object called from C, run on the images of this
# folder. OCTET is the command (octet on the PATH), OUT the folder for what is made (out).
set -euo pipefail
octet=$(command -v "${1:-octet}") || { echo "no octet: build it, or give its path" >&2; exit 1; }
octet=$(realpath "$octet")
out=$(realpath -m "${2:-$(dirname "$0")/out}")
cd "$(dirname "$0")"
mkdir -p "$out"
cc=${CC:-cc}
int8="--quantize int8 --calibrate calibration --quiet"

echo "== an executable: .npz in, .npz out"
"$octet" compile digits.onnx -o "$out/model" $int8
"$out/model" --input images.npz --output "$out/logits.npz"
$cc -std=c11 -O2 -Wall -Wextra score.c -o "$out/score"
"$out/score" "$out/logits.npz" labels.npy --show images.npz 2 --least 95
"$out/model" --selftest
"$out/model" --bench

echo "== a shared object called from C, two threads"
"$octet" compile digits.onnx -o "$out/digits.so" $int8
$cc -std=c11 -O2 -Wall -Wextra -I"$out" digits.c -o "$out/digits" -L"$out" -l:digits.so -Wl,-rpath,'$ORIGIN'
"$out/digits" images.npz labels.npy 2
