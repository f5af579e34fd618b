#!/usr/bin/env bash
# run.sh: runs the samples the way their READMEs say, against build/release (which samples/quickstart.sh builds), and the
# installed package: the CMake package, pkg-config and the library. Closes with the totals. Everything lies under build/.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
passed=0 failed=0
logs=build/logs/samples out=build/samples prefix=$PWD/build/prefix
mkdir -p "$logs" "$out"

# try NAME COMMAND...: one sample; its output is shown when it fails
try() {
  local name=$1
  shift
  if "$@" > "$logs/$name" 2>&1; then
    echo "ok   $name"
    passed=$((passed + 1))
  else
    echo "FAIL $name"
    tail -n 30 "$logs/$name"
    failed=$((failed + 1))
  fi
}

# installed: a program that compiles a model with liboctet, built from the pkg-config file
installed() {
  local pc
  pc=$(dirname "$(find "$prefix" -name octet.pc | head -n 1)") || return 1
  cat > "$out/embed.c" << 'C'
#include <octet_compiler.h>
#include <stdio.h>
int main(int argc, char **argv)
{
    char error[1000] = "";
    const char *options[] = {"--target", "native", "--quiet"};
    if (argc != 3) return 2;
    int code = octet_compile(argv[1], argv[2], 3, options, error, sizeof error);
    printf("octet %s: %d %s\n", octet_version(), code, error);
    return code;
}
C
  # shellcheck disable=SC2046
  cc -std=c11 "$out/embed.c" -o "$out/embed" $(PKG_CONFIG_PATH=$pc pkg-config --cflags --libs octet) -Wl,-rpath,"$(dirname "$pc")" &&
    "$out/embed" samples/digits/digits.onnx "$out/embedded.so" && ! "$out/embed" tests/data/blockers.onnx "$out/blocked.so" &&
    [ -s "$out/embedded.so" ] && [ ! -e "$out/blocked.so" ]
}

# session: the Python module beside `octet run`, with the Python that the sample before found or made
session() {
  local python=build/venv/bin/python octet=build/release/octet
  [ -x "$python" ] || python=${PYTHON:-python3}
  "$octet" compile samples/digits/digits.onnx -o "$out/session.so" --quiet &&
    "$octet" run "$out/session.so" --input samples/digits/images.npz --output "$out/session.npz" &&
    "$python" tests/samples/session.py "$out/session.so" samples/digits/images.npz "$out/session.npz"
}

try quickstart bash samples/quickstart.sh
try digits bash samples/digits/run.sh build/release/octet "$out/digits"
try install cmake --install build/release --prefix "$prefix"
try cmake-app bash samples/cmake-app/run.sh "$prefix" "$out/cmake-app"
try cmake-app-again bash samples/cmake-app/run.sh "$prefix" "$out/cmake-app"
try python bash samples/python/run.sh
try python-session session
try pkg-config installed
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
