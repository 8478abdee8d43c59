#!/bin/sh
# Measure an accelerator: tests of what only it can run, then the row `cuda`. Takes under 8 minutes; a Python with this
# project's dependencies (and `accelerate`; `fastsafetensors` and `instanttensor` are measured if they are there) does it:
#     PYTHON=.venv/bin/python sh bench/cuda.sh [FILE.json]
set -eu
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH="src:tests${PYTHONPATH:+:$PYTHONPATH}"
nvidia-smi --query-gpu=name,driver_version,pcie.link.gen.max,pcie.link.width.max --format=csv
"$PYTHON" -m pytest -q -p no:cacheprovider -k on_a_gpu tests/running/test_gather.py tests/integrations/test_integration_transformers.py
"$PYTHON" bench/run.py --rows cuda ${1:+--json "$1"}
