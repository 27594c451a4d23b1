#!/usr/bin/env bash
# Installs the Debian 12 packages that are missing: tools/install_dependencies.sh [build|test]
#   build   what ./run needs: compiler, CMake, libraries, Python (the tests are configured with the program)
#   test    that, and what ./test needs: OpenMPI, clang-19 for the fuzzers, Python, npm, texts to compare tokenizers on
# Asks dpkg first, so a machine that has everything is left alone and needs no network.
set -euo pipefail

build_packages=(
  g++ cmake ninja-build ccache mold pkg-config
  libcli11-dev libedit-dev libfmt-dev libpcre2-dev libsimdjson-dev libtomlplusplus-dev libutf8proc-dev libxxhash-dev
  nlohmann-json3-dev
  libgtest-dev libgmock-dev python3 wordnet-base
)
test_packages=(libopenmpi-dev openmpi-bin clang-19 libclang-rt-19-dev python3-venv git iso-codes)
test_commands=(npm)  # by command, since Node.js often comes from elsewhere than Debian's package

case ${1:-build} in
  build) wanted=("${build_packages[@]}") commands=() ;;
  test) wanted=("${build_packages[@]}" "${test_packages[@]}") commands=("${test_commands[@]}") ;;
  *) echo "usage: $0 [build|test]" >&2; exit 2 ;;
esac

missing=()
for package in "${wanted[@]}"; do
  status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)
  [ "$status" = installed ] || missing+=("$package")
done
for command in "${commands[@]}"; do
  command -v "$command" > /dev/null || missing+=("$command")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  command -v sudo > /dev/null || { echo "missing packages, and neither root nor sudo: apt install ${missing[*]}" >&2; exit 1; }
  as_root=(sudo)
fi
echo "installing ${missing[*]}" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" >> "$log" 2>&1; }
if ! { apt update && apt install --no-install-recommends "${missing[@]}"; }; then
  tail -n 30 "$log" >&2
  exit 1
fi
