#!/usr/bin/env bash
# run.sh: the official ONNX cases through compiled code. Cases that Octet does not pass are listed with a reason in
# expected-failures.tsv; one of them that passes is a failure too, so that the list stays true. bless.sh rewrites the list.
set -euo pipefail
cd "$(dirname "$0")/../.."
. tests/onnx/cases.sh
exec octet verify --quiet --timeout 120 --list tests/onnx/expected-failures.tsv "$cases"/*/*/
