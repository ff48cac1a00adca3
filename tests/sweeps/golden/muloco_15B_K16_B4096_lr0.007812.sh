#!/bin/bash
#SBATCH --job-name=muloco_15B_K16_B4096_lr0.007812
#SBATCH --nodes=256
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
# training.global_batch_size: published: the paper's 15B run, PAPER 4.1
# optimizer.lr: interpolated: from 0.015625 of MuLoCo K=16 at 3.1B (PAPER 4.1), 1/sqrt 2 a doubling of size, on the grid
# outer_optimizer.lr: published: PAPER 4.1
# outer_optimizer.momentum: published: PAPER 4.1
# parallelism.data_parallel_shard_degree: rule: sharded over a node from 914M on, PAPER 2.1
# parallelism.data_parallel_replicate_degree: rule: 2048 GPUs at 15B
# training.local_batch_size: rule: the launchers' (PAPER 2.3), at most a rank's share of the batch
# training.steps 36330: derived by muloco
# optimizer.weight_decay 5e-05: derived by muloco


run=/muloco/outputs/muloco_15B_K16_B4096_lr0.007812
if [ -e "$run/config.json" ]; then
    train=(muloco train "$run/config.json" --resume)
else
    train=(
        muloco train /muloco/config/diloco/2x_4gpu_muloco.py
        --model.flavor 15B
        --fault_tolerance.group_size 16
        --training.global_batch_size 4096
        --optimizer.lr 0.007812
        --outer_optimizer.lr 1.0
        --outer_optimizer.momentum 0.9
        --parallelism.data_parallel_shard_degree 8
        --parallelism.data_parallel_replicate_degree 16
        --training.local_batch_size 2
        --run.name muloco_15B_K16_B4096_lr0.007812
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
