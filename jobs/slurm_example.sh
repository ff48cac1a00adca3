#!/bin/bash
#SBATCH --job-name=my-run
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=96
#SBATCH --gpus-per-node=8
#SBATCH --mem=0
#SBATCH --time=24:00:00
#SBATCH --partition=gpu
#SBATCH --account=my-account
#SBATCH --output=./%x-%j.out
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@600

# One run of muloco. `muloco train` places the lighthouse and the workers on the nodes of this job.
# A job that was requeued resumes the run from its newest checkpoint, or starts it from the beginning where there is none.

module load cuda/12.8 || exit
source $HOME/muloco/setup.sh
export MULOCO_CACHE=/scratch/$USER/muloco-cache
export NCCL_DEBUG=WARN

run=outputs/my-run
if [ -e "$run/config.json" ]; then
    train=(muloco train "$run/config.json" --resume)
else
    train=(
        muloco train config/laptop/muloco.py
        --fault_tolerance.group_size 2
        --training.steps 600
        --run.name my-run
        --run.outputs outputs
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
