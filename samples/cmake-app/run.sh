#!/usr/bin/env bash
# run.sh [PREFIX] [OUT]: builds this application against the Octet installed in PREFIX and runs it. Without PREFIX, Octet of
# build/release is installed into build/prefix first. OUT is the build folder (out).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(realpath "$here/../..")
out=$(realpath -m "${2:-$here/out}")
if [ $# -ge 1 ]; then
  prefix=$(realpath "$1")
else
  prefix=$root/build/prefix
  cmake --install "$root/build/release" --prefix "$prefix" > /dev/null
fi
cmake -S "$here" -B "$out" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_PREFIX_PATH="$prefix" > /dev/null
cmake --build "$out"
"$out/app" "$here/seven.txt"
