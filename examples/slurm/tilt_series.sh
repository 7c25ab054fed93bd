#!/bin/bash
# Many tilt series, one task of a job array each:
#
#     sbatch --array=1-"$(wc -l < series.txt)" tilt_series.sh series.txt
#
# series.txt has the name of a series in each line; a folder of that name holds its stack, angles and alignment.
# A task that was stopped (time, preemption, a failing node) goes on where it stood when it is submitted again, and
# one that is complete does nothing: submit the whole array until `ls -d */taigs/DONE` lists every series.

#SBATCH --job-name=taigs-tilt
#SBATCH --cpus-per-task=8
#SBATCH --mem=32G
#SBATCH --time=04:00:00
#SBATCH --output=taigs-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
# 120 s before the time is up this script gets SIGTERM.
#SBATCH --signal=B:TERM@120

set -euo pipefail

name=$(sed -n "${SLURM_ARRAY_TASK_ID}p" "$1")
run=$name/taigs
again=()
if [[ -e $run/DONE || -e $run/checkpoints/begun.npz ]]; then
    again=(--resume)
elif [[ -e $run ]]; then
    again=(--overwrite) # it ended before there was anything to go on from
fi

# In the background, so that bash can pass SIGTERM on at once; taigs ends its step, keeps its state and exits with 143.
taigs tilt "$name/$name.mrc" --angles "$name/$name.tlt" --xf "$name/$name.xf" --thickness 1200 --bin 4 \
    -o "$run" --threads "$SLURM_CPUS_PER_TASK" --checkpoint-minutes 5 "${again[@]}" &
trap 'kill -TERM $!' TERM
code=0
wait $! || code=$?
if ((code > 128)) && kill -0 $! 2>/dev/null; then # SIGTERM ended the first wait, not yet taigs
    code=0
    wait $! || code=$?
fi
if ((code == 143)); then
    scontrol requeue "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID" # goes on in the next job
fi
exit "$code"
