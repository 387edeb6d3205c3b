#!/bin/bash
#SBATCH --job-name=fast-electra
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --signal=TERM@120
#SBATCH --requeue
#
# Trains on all GPUs of two nodes: sbatch examples/slurm.sh my.yaml runs/main
#
# Slurm sends SIGTERM two minutes before the time limit. The run then writes a checkpoint and ends. The job is queued
# again if it wrote a checkpoint, so it continues, and if it failed before its first one, it ends.

began=$(mktemp)
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
srun torchrun --nnodes "$SLURM_NNODES" --nproc-per-node "$SLURM_GPUS_ON_NODE" --rdzv-backend c10d \
    --rdzv-id "$SLURM_JOB_ID" --rdzv-endpoint "$first:29500" -m -- fast_electra pretrain "$1" --run "$2"
status=$?
if [ $status -ne 0 ] && [ -n "$(find "$2/checkpoints" -newer "$began" -name manifest.json 2> /dev/null)" ]; then
    scontrol requeue "$SLURM_JOB_ID"
fi
exit $status
