#!/usr/bin/env bash
# Data-parallel AdamW over the eight GPUs of one node, for a few steps.
#
#   jobs/ddp/run_8gpu_test_adamw.sh [--section.field value ...]
#
# With eight GPUs: the 416M flavor. Without any: eight processes of the smallest laptop flavor share the CPU.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # when it is started by another shell
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../setup.sh"

short=(--training.steps 20 --lr_scheduler.warmup_steps 5 --validation.sequences 128 --checkpoint.enable False)
size=()
if [ "$(python -c 'import torch; print(torch.cuda.device_count())')" -lt 1 ]; then
    echo "run_8gpu_test_adamw: no GPU here; flavor tiny in eight processes on the CPU"
    size=(--model.flavor tiny --training.seq_len 256 --training.precision float32 --compile.enable False)
    short+=(--training.global_batch_size 64 --training.local_batch_size 8 --optimizer.lr 0.004)
fi
exec muloco train "$MULOCO_PATH/config/ddp/adamw.py" "${short[@]}" "${size[@]}" "$@"
