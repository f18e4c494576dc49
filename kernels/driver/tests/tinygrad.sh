#!/usr/bin/env bash
# Runs tinygrad's own tests on the driver, once with each renderer. Wants a checkout of tinygrad, clang (CC names another
# one), and from PyPI nvidia-cuda-nvrtc, nvidia-cuda-runtime, pytest, numpy, hypothesis and torch (the reference) in the
# Python it is run with. A fault kills the process's context, so that the tests after one fail too: run those alone.
#
#   cargo build --release -p deltaw-driver && tests/tinygrad.sh CHECKOUT [PYTEST ARGUMENTS...]
set -euo pipefail
library=$(realpath "$(dirname "$0")/../../../target/release/libdeltaw_driver.so")
checkout=$(realpath "$1")
shift
packages=$(python3 -c 'import nvidia, pathlib; print(pathlib.Path(list(nvidia.__path__)[0]))')
cuda=$(mktemp -d)
trap 'rm -r "$cuda"' EXIT
# tinygrad looks for libcuda.so and for headers in one directory.
ln -s "$library" "$cuda/libcuda.so"
ln -s "$(dirname "$(find "$packages" -name cuda_fp16.h | head -1)")" "$cuda/include"
export CUDA_PATH=$cuda
NVRTC_PATH=$(find "$packages" -name 'libnvrtc.so.*' | head -1)
export NVRTC_PATH
export DELTAW_LOG=${DELTAW_LOG:-off}
cd "$checkout"
for renderer in CUDA CUDA:PTX; do
    echo "DEV=$renderer"
    DEV=$renderer PYTHONPATH=$checkout python3 -m pytest -q "${@:-test/backend/test_ops.py}" || true
done
