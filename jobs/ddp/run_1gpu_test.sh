#!/usr/bin/env bash
# A few steps of AdamW in one process: does this machine train?
#
#   jobs/ddp/run_1gpu_test.sh [--section.field value ...]
#
# With a GPU: the 416M flavor. Without one: the smallest laptop flavor on the CPU.
[ -n "${BASH_VERSION:-}" ] || exec bash "$0" "$@" # when it is started by another shell
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../../setup.sh"

size=()
if [ "$(python -c 'import torch; print(torch.cuda.device_count())')" -lt 1 ]; then
    echo "run_1gpu_test: no GPU here; flavor tiny on the CPU"
    size=(--model.flavor tiny --training.seq_len 256 --training.precision float32)
fi
exec muloco train "$MULOCO_PATH/config/ddp/1gpu_test.py" "${size[@]}" "$@"
