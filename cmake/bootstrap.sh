#!/usr/bin/env bash
# bootstrap.sh [tests]: installs what Octet is built with (and, with `tests`, tested with) from Debian's packages, if anything is missing.
# Needs root or sudo only when something is missing.
set -euo pipefail
packages="cmake ninja-build pkg-config gcc binutils llvm-22-dev libprotobuf-c-dev protobuf-c-compiler libcjson-dev libzip-dev liblapack-dev"
[ "${1:-}" = tests ] && packages="$packages libcriterion-dev python3-venv g++ zip"
missing=
for p in $packages; do
  dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q 'ok installed' || missing="$missing $p"
done
[ -z "$missing" ] && exit 0
sudo=; [ "$(id -u)" = 0 ] || sudo=sudo
echo "installing:$missing"
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -q >/dev/null
# shellcheck disable=SC2086
$sudo apt-get install -y -q --no-install-recommends $missing >/dev/null
