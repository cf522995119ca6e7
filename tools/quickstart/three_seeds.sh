#!/usr/bin/env bash
# The quickstart's figures in the README: the start policy, then three seeds of training, each on the 600 test questions.
# Run from the repository root: bash tools/quickstart/three_seeds.sh [FOLDER [FILE]]    (about ten minutes on two cores)
# FILE is conf/quickstart.yaml, or conf/quickstart_chat.yaml for the form of chats.
set -euo pipefail
runs=${1:-runs/seeds}
quickstart=(-c "${2:-conf/quickstart.yaml}")
echo "== start policy"
llds test "${quickstart[@]}" --trainer.default_root_dir "$runs/start"
for seed in 0 1 2; do
  echo "== seed $seed"
  seeds=(--seed_everything "$seed")
  root=(--trainer.default_root_dir "$runs/seed-$seed")
  started=$SECONDS
  llds fit "${quickstart[@]}" "${seeds[@]}" "${root[@]}"
  echo "fit took $((SECONDS - started)) s"
  llds test "${quickstart[@]}" "${seeds[@]}" "${root[@]}" --ckpt_path last
done
