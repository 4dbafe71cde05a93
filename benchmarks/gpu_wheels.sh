#!/bin/sh
# Fills a folder with the wheels that benchmarks/gpu_day.sh --wheels takes:
#
#     benchmarks/gpu_wheels.sh PYTHON_VERSION FOLDER [all]
#
# For x86-64 Linux with glibc 2.28 or newer and that Python ("3.12"): pytest, for the tests marked gpu. With "all" also
# what the library itself needs. Never torch, nor what it needs: the machine has its own.
set -eu
version=$1 folder=$2
packages="pytest pytest-timeout"
[ "${3:-}" = all ] && packages="$packages numpy pillow rich tqdm typer transformers tokenizers safetensors huggingface-hub"
platforms=$(for platform in manylinux_2_28 manylinux_2_27 manylinux_2_17 manylinux2014 manylinux_2_12 manylinux_2_5 manylinux1; do
    printf -- '--platform %s_x86_64 ' "$platform"
done)
# shellcheck disable=SC2086
"${PYTHON:-python3}" -m pip download --quiet --disable-pip-version-check --only-binary=:all: --implementation cp \
    --python-version "$version" $platforms --constraint "$(dirname "$0")/../constraints.txt" --dest "$folder" $packages
rm -f "$folder"/torch-*.whl "$folder"/nvidia_*.whl "$folder"/triton-*.whl
ls -1 "$folder"
echo "$(du -sh "$folder" | cut -f1) in $folder"
