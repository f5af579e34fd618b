#!/usr/bin/env bash
# run.sh [LIBRARY]: runs classify.py with the Python module of this tree and liboctet.so (build/release, or LIBRARY). Uses
# python3 when it has numpy, else the virtual environment build/venv, which is made and gets numpy.
set -euo pipefail
root=$(cd "$(dirname "$0")/../.." && pwd)
digits=$root/samples/digits
export OCTET_LIBRARY=${1:-$root/build/release/liboctet.so} PYTHONPATH=$root/runtime/python
python=${PYTHON:-python3}
if ! "$python" -c 'import numpy' 2> /dev/null; then
  python=$root/build/venv/bin/python
  "$python" -c 'import numpy' 2> /dev/null || { python3 -m venv "$root/build/venv" && "$python" -m pip install --quiet numpy; }
fi
echo "== float"
"$python" "$root/samples/python/classify.py" "$digits/digits.onnx" "$digits/images.npz" "$digits/labels.npy"
echo "== int8"
"$python" "$root/samples/python/classify.py" "$digits/digits.onnx" "$digits/images.npz" "$digits/labels.npy" --int8 "$digits/calibration"
