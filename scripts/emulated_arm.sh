#!/usr/bin/env bash
# Are the kernels right on an ARM processor? All of tests/processors/check_kernels.py on an emulated
# one, twice: kernels come through the compiling process, and then from the cache.
#
#     bash scripts/emulated_arm.sh [FOLDER] [NAME ...]      e.g. ../arm product attention
#
# It works from nothing, on Debian 12 for x86-64, as root: an ARM Python of Debian's and wheels of
# PyPI's are unpacked in FOLDER (500 MB), which stays, with the cache. All checks take hours, the
# products about ten minutes. NAMEs choose checks by how they begin.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
folder=${1:-$(mktemp -d)}
shift || true

mkdir -p "$folder"
if [ ! -d "$folder/debian" ]; then
  apt-get update -qq
  apt-get install -y -qq mmdebstrap qemu-user-static debian-archive-keyring python3-pip
  mmdebstrap --mode=root --variant=extract --architectures=arm64 \
    --include=python3,libstdc++6,libgomp1 bookworm "$folder/debian"
fi
if [ ! -d "$folder/site" ]; then
  python3 -m pip install --quiet --target "$folder/site" --only-binary=:all: \
    --implementation cp --python-version 3.11 --platform manylinux_2_28_aarch64 \
    --platform manylinux_2_27_aarch64 --platform manylinux2014_aarch64 \
    "numba>=0.61" "numpy>=2.0" regex tqdm
fi

# The compiling process is started by this program too, so that it is emulated as well.
printf '#!/bin/sh\nexec qemu-aarch64-static -L "%s" "%s/usr/bin/python3.11" "$@"\n' \
  "$folder/debian" "$folder/debian" >"$folder/python"
chmod +x "$folder/python"

export CHECK_KERNELS_PYTHON=$folder/python TRICYCLE_CACHE=$folder/cache
export TRICYCLE_NUM_THREADS=1 OMP_WAIT_POLICY=passive
PYTHONPATH=$folder/site:$(printf '%s:' "$root"/packages/*/src)
export PYTHONPATH
for run in compiled loaded; do
  echo "==== $run ($SECONDS s so far)"
  "$folder/python" "$root/tests/processors/check_kernels.py" "$@" | tee "$folder/$run.txt"
done
diff "$folder/compiled.txt" "$folder/loaded.txt"
