#!/bin/bash
#SBATCH --job-name=diloco_416M_K8_B512_lr0.003906_statistical_feedback_bits4
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --output=/sweep/logs/%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@600

# One run of muloco. `muloco train` places the lighthouse and the workers on the nodes of this job.
# A job that was requeued resumes the run from its newest checkpoint, or starts it from the beginning where there is none.
# optimizer.lr: published: PAPER 4.1
# outer_optimizer.lr: published: PAPER 4.1
# outer_optimizer.momentum: published: PAPER 4.1
# parallelism.data_parallel_shard_degree: rule: sharded over a node from 914M on, PAPER 2.1
# parallelism.data_parallel_replicate_degree: rule: 8 GPUs at 416M
# training.local_batch_size: published: not doubled here, PAPER 2.3
# compression.error_gain: published: the outer rate, which the paper's code also applies before it compresses, PAPER 3.3
# training.steps 8160: derived by muloco
# optimizer.weight_decay 0.00125: derived by muloco


run=/muloco/outputs/diloco_416M_K8_B512_lr0.003906_statistical_feedback_bits4
if [ -e "$run/config.json" ]; then
    train=(muloco train "$run/config.json" --resume)
else
    train=(
        muloco train /muloco/config/diloco/2x_4gpu_diloco_quantized_outer.py
        --model.flavor 416M
        --fault_tolerance.group_size 8
        --training.global_batch_size 512
        --optimizer.lr 0.003906
        --compression.kind statistical
        --compression.error_feedback True
        --outer_optimizer.lr 0.9
        --outer_optimizer.momentum 0.9
        --parallelism.data_parallel_shard_degree 1
        --parallelism.data_parallel_replicate_degree 1
        --training.local_batch_size 16
        --compression.skip_norms True
        --compression.fraction None
        --compression.values None
        --compression.bits 4
        --compression.reduce requantize
        --compression.error_gain 0.9
        --run.name diloco_416M_K8_B512_lr0.003906_statistical_feedback_bits4
        --run.outputs /muloco/outputs
    )
fi

# USR1 comes 600 s before the time limit, and with pre-emption: the run saves a checkpoint and stops. So it does after
# TERM, but then the job is not requeued.
pass_on() { interrupted=yes; kill -s "$1" $! 2>/dev/null; }
trap 'pass_on USR1' USR1
trap 'pass_on TERM' TERM
"${train[@]}" &
interrupted=yes
while [ "$interrupted" ]; do  # a signal interrupts `wait`, too
    interrupted=
    wait $!
    status=$?
done
# 138: stopped by USR1 before its end. 75: failed for a temporary reason, with a checkpoint to resume from; the job is not
# requeued for this once it has been requeued ten times, for whichever reason.
if [ "$status" -eq 138 ] || { [ "$status" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 10 ]; }; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$status"
