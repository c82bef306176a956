#!/usr/bin/env bash
# The GPU tests and bench_gpu.py, on a machine with one NVIDIA GPU and without a network, in at most
# 8 minutes. Options go to bench_gpu.py: `benchmarks/gpu.sh --tasks fit --json results.json`.
# `benchmarks/gpu.sh --smoke` runs a tiny benchmark on the CPU. PYTHON chooses the interpreter.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

MOST_SECONDS=480
TEST_SECONDS=200
MARGIN=30 # for imports before the benchmark's clock starts, and for its report
python=${PYTHON:-python3}
export PYTHONUNBUFFERED=1

# Import skbert from this checkout. Where it is not installed, add the metadata of a distribution,
# because saved estimators contain the version.
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
export PYTHONPATH="$PWD:$place${PYTHONPATH:+:$PYTHONPATH}"
if ! "$python" -c 'from importlib.metadata import version; version("skbert")' 2>/dev/null; then
    version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' skbert/__init__.py)
    mkdir "$place/skbert-$version.dist-info"
    printf 'Metadata-Version: 2.1\nName: skbert\nVersion: %s\n' "$version" \
        >"$place/skbert-$version.dist-info/METADATA"
fi

is_smoke=false
for option in "$@"; do
    [ "$option" = --smoke ] && is_smoke=true
done
if "$is_smoke"; then
    "$python" benchmarks/bench_gpu.py "$@"
    exit
fi

failed=0
nvidia-smi || failed=1
timeout "$TEST_SECONDS" "$python" -m pytest tests/test_gpu.py -q -p no:benchmark -p no:cacheprovider || failed=1
left=$((MOST_SECONDS - SECONDS))
minutes=$(awk "BEGIN { print ($left - $MARGIN) / 60 }")
timeout "$left" "$python" benchmarks/bench_gpu.py --minutes "$minutes" "$@" || failed=1
exit "$failed"
