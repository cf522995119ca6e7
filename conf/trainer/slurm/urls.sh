#!/bin/bash
# Prints the addresses of all servers as a YAML list, once every one answers; fails after SERVERS_WITHIN_S (900).
#   urls.sh SERVERS MACHINE [MACHINE ...]
set -euo pipefail
servers=$1
shift
urls=()
for machine in "$@"; do
  for ((n = 0; n < servers; n++)); do urls+=("http://$machine:$((${FIRST_PORT:-8100} + n))"); done
done
ends=$((SECONDS + ${SERVERS_WITHIN_S:-900}))
for url in "${urls[@]}"; do
  until curl --silent --fail --max-time 5 --output /dev/null "$url/health"; do
    if ((SECONDS >= ends)); then
      echo "Expected a vLLM server at $url within ${SERVERS_WITHIN_S:-900} s, got none: see vllm-*.log in the run's folder." >&2
      exit 1
    fi
    sleep 1
  done
done
(IFS=,; echo "[${urls[*]}]")
