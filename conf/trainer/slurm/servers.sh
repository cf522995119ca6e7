#!/bin/bash
# Starts this machine's vLLM servers, one on each of its last GPUs, and waits for them; run once on every machine.
#   servers.sh MODEL MAX_TOKENS SERVERS FIRST_GPU LOGS [options of vLLM]
# Whoever reaches their ports can replace their weights: keep them inside a network that you trust.
set -euo pipefail
trap '' USR1 # SLURM announces the end of the job's time to all of it; the trainer answers, servers go on until it is done
model=$1 max_tokens=$2 servers=$3 first_gpu=$4 logs=$5
shift 5
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT # they end with this script
trap 'exit 143' TERM INT
mkdir -p "$logs"
for ((n = 0; n < servers; n++)); do
  CUDA_VISIBLE_DEVICES=$((first_gpu + n)) ${PYTHON:-python} -m llds.samplers.vllm.server.serve "$model" --host 0.0.0.0 \
    --port $((${FIRST_PORT:-8100} + n)) --max-model-len "$max_tokens" --weight-transfer "${TRANSFER:-nccl}" --dtype "${DTYPE:-bfloat16}" \
    "$@" >"$logs/vllm-$(hostname)-$n.log" 2>&1 &
done
wait
