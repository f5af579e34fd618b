#!/usr/bin/env bash
# run.sh [OCTET] (octet on the PATH): the documentation against the program. docs/OPERATORS.md must be what `octet operators`
# prints, the options of docs/CLI.md those of `octet COMMAND --help`, and every block of docs/*.md that begins with
# "$ octet" what that command prints. BLESS=1 rewrites them instead. Closes with the totals.
set -uo pipefail
octet=$(command -v "${1:-octet}") || { echo "no octet: ${1:-}"; echo "0 passed, 1 failed"; exit 1; }
octet=$(realpath "$octet")
cd "$(dirname "$0")/../.." || exit 1
exec python3 tests/docs/check.py "$octet"
