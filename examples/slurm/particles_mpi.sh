#!/bin/bash
# One reconstruction of particles on several nodes:
#
#     sbatch particles_mpi.sh run_data.star spa-run
#
# Ranks read particles of their own, and two of them fit one half-set each; more than two help where reading takes
# longest, that is for very many particles. mpi4py must belong to the MPI that srun starts: pip install "taigs[mpi]"
# under the module that is loaded below. A job that was stopped goes on when it is submitted again.

#SBATCH --job-name=taigs-spa
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --cpus-per-task=16
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --output=taigs-%j.log
# On GPUs, one for each rank:
##SBATCH --gpus-per-task=1
# 120 s before the time is up every rank gets SIGTERM: rank 0 keeps the state and ends the others.
#SBATCH --signal=TERM@120

set -euo pipefail

# module load openmpi

star=$1 run=$2
again=()
if [[ -e $run/DONE || -e $run/checkpoints/begun.npz ]]; then
    again=(--resume)
elif [[ -e $run ]]; then
    again=(--overwrite) # it ended before there was anything to go on from
fi

# --mpi=pmix for Open MPI, --mpi=pmi2 for MPICH and Intel MPI (`srun --mpi=list` shows what there is). Without srun:
#     mpirun -n 4 --map-by node:PE=16 taigs spa ...
srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" taigs spa "$star" -o "$run" --checkpoint-minutes 5 "${again[@]}"
