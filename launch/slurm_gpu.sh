#!/usr/bin/env bash
#SBATCH --job-name=flexidit_jax
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=1
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=B:TERM@120
#SBATCH --open-mode=append
#
# One process a node, which sees all GPUs of the job there. Two minutes before the time limit Slurm sends this script
# SIGTERM; the program saves, the job goes back into the queue, and the same command goes on from the checkpoint.
set -euo pipefail

usage() {
  cat <<'END'
usage: sbatch [SBATCH OPTIONS] launch/slurm_gpu.sh [--python=PATH] [--dry-run] --config=FILE [words of the program]

  sbatch --gpus-per-node=4 --time=8:00:00 launch/slurm_gpu.sh --config=configs/imagenet256.py --workdir=/shared/runs/xl2
  sbatch --nodes=4 --gpus-per-node=8 launch/slurm_gpu.sh --config=configs/imagenet256.py --workdir=/shared/runs/xl2

Submit from the root of the repository. Options of sbatch before the script override its #SBATCH lines: one node, one
task, one GPU, 24 hours, requeued.

  --python=PATH    the Python with the package and jax's CUDA plugin (default: .venv/bin/python)
  --dry-run        print every command of a job that meets its time limit, one per line, and run none; needs no Slurm
  --help           show this and exit

Several nodes train together, one task on each with all its GPUs (--ntasks-per-node=1, as here), or one task for each
GPU (--ntasks-per-node=GPUS). --workdir must be a folder that all of them see. --mode=train and --mode=encode take
several, every other mode one node and one task.

Exit status: that of the program; 75 when it was told to stop and saved, but not by this script; 0 when requeued; 2 bad
input (one line says what).
END
}

refuse() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

# runs a command, or prints it so that it can be pasted
execute() {
  local line
  if [[ $dry_run == yes ]]; then
    printf -v line ' %q' "$@"
    printf '%s\n' "${line:1}"
  else
    "$@"
  fi
}

python=.venv/bin/python dry_run=no config=no
words=()
for word in "$@"; do
  case $word in
    --python=*) python=${word#*=} ;;
    --dry-run) dry_run=yes ;;
    --help) usage && exit 0 ;;
    --config=?*) config=yes words+=("$word") ;;
    *) words+=("$word") ;;
  esac
done
[[ $config == yes ]] || refuse 'no --config=FILE given, such as --config=configs/imagenet256.py'
job=${SLURM_JOB_ID:-} nodes=${SLURM_JOB_NUM_NODES:-1} each=${SLURM_NTASKS_PER_NODE:-1}
tasks=${SLURM_NTASKS:-$((nodes * each))} # Slurm sets it where --ntasks was given
((tasks % nodes == 0)) || refuse "$tasks tasks on $nodes nodes are not equally many each; use --ntasks-per-node"
if [[ $dry_run == yes ]]; then
  job=${job:-JOB_ID}
else
  [[ -n $job ]] || refuse 'not inside a Slurm job; submit it: sbatch launch/slurm_gpu.sh ..., or add --dry-run'
  command -v -- "$python" > /dev/null \
    || refuse "no Python at $python in $PWD; submit from the root of the repository, or use --python=PATH"
fi

# since Slurm 22.05 srun no longer inherits the job's --cpus-per-task; outside a job it is that of #SBATCH above
command=(srun "--nodes=$nodes" "--ntasks=$tasks" "--cpus-per-task=${SLURM_CPUS_PER_TASK:-8}" --kill-on-bad-exit=1
  "$python" -m flexidit_jax.main --stopped-status=75 "${words[@]}")
# without --batch or --full, scancel signals the steps and not this script; srun itself need not forward anything
stop=(scancel --signal=TERM "$job")
again=(scontrol requeue "$job")

if [[ $dry_run == yes ]]; then
  execute "${command[@]}"
  execute "${stop[@]}"
  execute "${again[@]}"
  exit 0
fi

asked=no
trap 'asked=yes; "${stop[@]}" || true' TERM # the step may just have ended
"${command[@]}" &
child=$!
status=0
wait "$child" || status=$?
# a trapped signal ends `wait` early, so it is asked for the step's own status again
while kill -0 "$child" 2> /dev/null; do
  status=0
  wait "$child" || status=$?
done
if [[ $asked == yes ]]; then
  echo "stopped with status $status, going back into the queue" >&2
  "${again[@]}"
  exit 0
fi
exit "$status"
