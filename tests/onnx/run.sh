#!/usr/bin/env bash
# run.sh: the official ONNX cases through compiled code. Cases that Octet does not pass are listed with a reason in expected-failures.tsv;
# one of them that passes is a failure too, so that the list stays true.
set -euo pipefail
cd "$(dirname "$0")/../.."
out=build/onnx-cases
if [ ! -e "$out/.done" ]; then
  python3 -m venv build/venv
  build/venv/bin/pip install -q --disable-pip-version-check onnx==1.23.2 ml_dtypes pillow
  build/venv/bin/python tests/onnx/export.py "$out"
  touch "$out/.done"
fi
exec octet verify --list tests/onnx/expected-failures.tsv "$out"/*/*/
