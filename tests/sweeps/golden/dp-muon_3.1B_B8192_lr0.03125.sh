#!/bin/bash
#SBATCH --job-name=dp-muon_3.1B_B8192_lr0.03125
#SBATCH --nodes=16
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
# optimizer.lr: published: ddp_baselines_h100.py, PAPER 4.1
# parallelism.data_parallel_shard_degree: published: 16 x 8 GPUs in ddp_baselines_h100.py
# parallelism.data_parallel_replicate_degree: rule: 128 GPUs at 3.1B
# training.local_batch_size: rule: the launchers' (PAPER 2.3), at most a rank's share of the batch
# training.steps 3660: derived by muloco
# optimizer.weight_decay 0.016: derived by muloco


run=/muloco/outputs/dp-muon_3.1B_B8192_lr0.03125
if [ -e "$run/config.json" ]; then
    train=(muloco train "$run/config.json" --resume)
else
    train=(
        muloco train /muloco/config/ddp/muon.py
        --model.flavor 3.1B
        --training.global_batch_size 8192
        --optimizer.lr 0.03125
        --parallelism.data_parallel_shard_degree 16
        --parallelism.data_parallel_replicate_degree 8
        --training.local_batch_size 8
        --run.name dp-muon_3.1B_B8192_lr0.03125
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
