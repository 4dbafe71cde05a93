#!/bin/sh
# Everything about this project on a GPU, bounded by its own clock: benchmarks/gpu_day.sh --out FOLDER [--seconds 480]
cd "$(dirname "$0")/.." && PYTHONPATH="$PWD:$PWD/shared${PYTHONPATH:+:$PYTHONPATH}" exec "${PYTHON:-python3}" -m benchmarks.gpu_day "$@"
