# cases.sh (sourced, in the repository's root): makes the folder of official cases once and sets $cases to it. ONNX_CASES names
# one that is there already.
cases=${ONNX_CASES:-build/onnx-cases}
if [ -z "${ONNX_CASES:-}" ] && [ ! -e "$cases/.done" ]; then
  python3 -m venv build/venv
  build/venv/bin/pip install -q --disable-pip-version-check onnx==1.23.2 ml_dtypes pillow
  build/venv/bin/python tests/onnx/export.py "$cases"
  touch "$cases/.done"
fi
