#!/usr/bin/env bash
# Eight MuLoCo workers of one device each, and their lighthouse, on one node, to debug with.
#
#   jobs/diloco/debug_8workers_x1gpu.sh [--section.field value ...]
#
# With eight GPUs or more, each worker has one and trains the 150M flavor. With fewer, the workers share what is there (GPUs or
# CPU cores) over gloo, and the model is the smallest laptop flavor.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # when it is started by another shell
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../setup.sh"

gpus="$(python -c 'import torch; print(torch.cuda.device_count())')"
if [ "$gpus" -ge 8 ]; then
    echo "debug_8workers: $gpus GPUs, one for each worker; flavor 150M"
    config=config/diloco/2x_4gpu_muloco.py
    size=(--model.flavor 150M --parallelism.data_parallel_replicate_degree 1 --training.steps 120 --lr_scheduler.warmup_steps 30 --validation.sequences 32)
else
    echo "debug_8workers: $gpus GPUs for 8 workers, so they share what this machine has, over gloo; flavor tiny"
    config=config/laptop/muloco.py
    size=(--model.flavor tiny --training.global_batch_size 64 --training.steps 120)
fi
exec muloco train "$MULOCO_PATH/$config" "${size[@]}" --fault_tolerance.group_size 8 "$@"
