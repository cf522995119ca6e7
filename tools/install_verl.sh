#!/usr/bin/env bash
# Installs verl into the active environment so far as its registry of losses and its loggers need it, for the tests of
# llds.integrations.verl: without dependencies, because verl wants an older transformers than llds. About 300 MB.
#   bash tools/install_verl.sh
set -euo pipefail
python=$(python -c "import sys; print(sys.executable)")
cd "$(dirname "$0")/.."
. tools/pip.sh
install --no-deps verl==0.9.1 tensordict==0.10.0 pyvers codetiming hydra-core torchdata dill \
  antlr4-python3-runtime==4.9.3 ray msgpack
# verl's wheel brings its own tests as a package `tests`, which would stand in the way of any other.
rm -rf "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tests"
VERL_USE_EXTERNAL_MODULES=llds.integrations.verl python - <<'PYTHON'
from verl.trainer.ppo.core_algos import get_policy_loss_fn

print(f"verl's registry has {get_policy_loss_fn('llds').__module__}")
PYTHON
