#!/usr/bin/env bash
# A Cloud TPU from nothing to a finished run: create, install, run on every worker, resume after preemption, delete.
set -euo pipefail

COMMANDS='create, install, run, resume, delete'

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [OPTIONS] [-- words of flexidit_jax.main]

  create     makes the TPU VM                                   needs --type and --version
  install    copies the last commit (git archive HEAD) to every worker, installs it there with jax[tpu]
  run        runs the program on every worker and waits for it  needs -- --config=FILE ...
  resume     all of it, again whenever the TPU is lost: looks at its state, deletes what was preempted, creates,
             installs and runs until the program has finished   needs what create and run need, and an absolute
             --workdir that outlives the TPU VM (a mounted disk or file share)
  delete     deletes the TPU VM; mounted disks stay

  launch/tpu_pod.sh resume --name=flex --zone=europe-west4-b --type=v5litepod-8 --version=v2-alpha-tpuv5-lite --spot \
      --setup='sudo mkdir -p /share && { mountpoint -q /share || sudo mount -t nfs 10.0.0.2:/share /share; }' \
      -- --config=configs/imagenet256.py --workdir=/share/runs/xl2 --config.dataset.data_dir=/share/tfds

Several hosts: on a slice of more than one, install and run reach every worker, and the processes train together. Worker
0 writes and speaks. --workdir and the data must be seen by all of them. --mode=train and --mode=encode take several.

  --project=ID       Google Cloud project (default: gcloud's own)
  --type=TYPE        accelerator type, such as v5litepod-8, v6e-8, v4-8
  --version=VERSION  software of the VM: v2-alpha-tpuv6e for v6e, v2-alpha-tpuv5 for v5p, v2-alpha-tpuv5-lite for v5e,
                     tpu-ubuntu2204-base for v4 and older
  --spot             a Spot VM: cheaper, may be taken away at any time
  --data-disk=SPEC   passed to create: mode=read-write,source=projects/ID/zones/ZONE/disks/DISK
  --setup=COMMAND    install runs it on every worker first, to mount what --workdir and the data lie on; resume
                     installs after every failure, so it must bear being run twice
  --tries=N          resume gives up after N failures in a row that were no preemption (default: 5)
  --wait=SECONDS     pause of resume after a failure (default: 60)
  --dry-run          print every command, one per line, and run none; resume prints what follows a preemption
  --help             show this and exit

Exit status: 0 done, 2 bad input (one line says what), 75 the program was told to stop and saved (of run; resume goes
on), else that of the command that failed.
END
}

refuse() {
  printf 'error: %s\n' "$1" >&2
  exit 2
}

say() {
  printf '%s\n' "tpu_pod: $1" >&2
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

# ---------------------------------------------------------------- words
name='' zone='' project='' type='' version='' data_disk='' setup='' tries=5 pause=60 spot=no dry_run=no
words=()
[[ ${1:-} != --help ]] || { usage && exit 0; }
[[ $# -gt 0 && $1 != -* ]] || refuse "no command given; known: $COMMANDS"
command=$1
shift
case $command in
  create | install | run | resume | delete) ;;
  *) refuse "unknown command '$command'; known: $COMMANDS" ;;
esac
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --data-disk=*) data_disk=${1#*=} ;;
    --setup=*) setup=${1#*=} ;;
    --tries=*) tries=${1#*=} ;;
    --wait=*) pause=${1#*=} ;;
    --spot) spot=yes ;;
    --dry-run) dry_run=yes ;;
    --help) usage && exit 0 ;;
    --) shift && words=("$@") && break ;;
    *) refuse "unknown argument '$1'; --help lists the options, words for the program come after --" ;;
  esac
  shift
done
[[ -n $name ]] || refuse "no --name=NAME given: what the TPU is called"
[[ -n $zone ]] || refuse "no --zone=ZONE given, such as --zone=europe-west4-b"
[[ $tries =~ ^[1-9][0-9]*$ ]] || refuse "--tries=$tries is not a positive number"
[[ $pause =~ ^[0-9]+$ ]] || refuse "--wait=$pause is not a number of seconds"
if [[ $command == create || $command == resume ]]; then
  [[ -n $type ]] || refuse "$command needs --type=TYPE, such as --type=v5litepod-8"
  [[ -n $version ]] || refuse "$command needs --version=VERSION; --help says which for which type"
fi
if [[ $command == run || $command == resume ]]; then
  config=no workdir='' before=''
  for word in ${words[@]+"${words[@]}"}; do
    case $word in
      --config=?*) config=yes ;;
      --workdir=*) workdir=${word#*=} ;;
    esac
    [[ $before != --workdir ]] || workdir=$word # the program takes two words as well
    before=$word
  done
  [[ $config == yes ]] \
    || refuse "$command needs the program's words after --, such as -- --config=configs/imagenet256.py"
  [[ $workdir != *://* ]] \
    || refuse "--workdir=$workdir is not a path; mount the bucket with --setup and name the folder"
  [[ $command == run || $workdir == /* ]] \
    || refuse "resume needs an absolute --workdir on storage that outlives the TPU VM, found '$workdir'"
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
archive=${TMPDIR:-/tmp}/flexidit_jax-$name.tar.gz
tpu=(gcloud compute tpus tpu-vm)
where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")

# ---------------------------------------------------------------- commands
create() {
  local flags=("--accelerator-type=$type" "--version=$version")
  [[ $spot == no ]] || flags+=(--spot)
  [[ -z $data_disk ]] || flags+=("--data-disk=$data_disk")
  execute "${tpu[@]}" create "$name" "${where[@]}" "${flags[@]}"
}

# a shell command on every worker; a worker that has gone ends it within two minutes
on_workers() {
  execute "${tpu[@]}" ssh "$name" "${where[@]}" --worker=all \
    --ssh-flag=-oServerAliveInterval=30 --ssh-flag=-oServerAliveCountMax=4 "--command=$1"
}

# uv, which installs itself to ~/.local/bin, brings a Python that the package takes, whatever the image has
install() {
  [[ -z $setup ]] || on_workers "$setup" || return
  execute git -C "$root" archive --format=tar.gz "--output=$archive" HEAD || return
  execute "${tpu[@]}" scp "$archive" "$name:flexidit_jax.tar.gz" "${where[@]}" --worker=all || return
  local steps=(
    'mkdir -p flexidit_jax'
    'tar -xzf flexidit_jax.tar.gz -C flexidit_jax'
    'cd flexidit_jax'
    '{ test -x ../.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh; }'
    '../.local/bin/uv venv --allow-existing --python 3.11 .venv'
    '../.local/bin/uv pip install --python .venv/bin/python -c constraints.txt -e . "jax[tpu]"'
  )
  local line
  printf -v line ' && %s' "${steps[@]}"
  on_workers "${line:4}"
}

run() {
  local line
  printf -v line ' %q' "${words[@]}"
  on_workers "cd flexidit_jax && .venv/bin/python -m flexidit_jax.main --stopped-status=75$line"
}

delete() {
  execute "${tpu[@]}" delete "$name" "${where[@]}" --quiet
}

# sets `state` to what gcloud calls it, or ABSENT
look() {
  local describe=("${tpu[@]}" describe "$name" "${where[@]}" '--format=value(state)') answer
  if [[ $dry_run == yes ]]; then
    execute "${describe[@]}"
    state=PREEMPTED
  elif answer=$("${describe[@]}" 2>&1); then
    state=${answer##*$'\n'}
  elif [[ $answer == *NOT_FOUND* || $answer == *'not found'* ]]; then
    state=ABSENT
  else
    printf '%s\n' "$answer" >&2
    return 1
  fi
}

# leaves a TPU that is ready and installed, or fails
ready() {
  local state
  while :; do
    look || return
    case $state in
      READY) break ;;
      ABSENT | PREEMPTED | TERMINATED | STOPPED)
        [[ $dry_run == yes ]] || say "$name is $state: making it"
        [[ $state == ABSENT ]] || delete || return
        create || return
        break
        ;;
      *)
        say "$name is $state: waiting"
        sleep "$pause"
        ;;
    esac
  done
  install # also where it was ready: a mount may be gone, an install half done
}

resume() {
  local failures=0 status ran state
  while :; do
    status=0 ran=no
    ready || status=$?
    if ((status == 0)); then
      ran=yes
      run || status=$?
      # 2 is the program's word for bad input, which would be bad again
      ((status != 0 && status != 2)) || return "$status"
    fi
    failures=$((failures + 1))
    say "ended with status $status"
    sleep "$pause"
    # 75 is its word for: told to stop, saved, not finished; a TPU that is about to be lost may still look READY
    if [[ $ran == yes ]] && { ((status == 75)) || { look && [[ $state != READY ]]; }; }; then
      failures=0 # lost while it ran
    elif ((failures >= tries)); then
      say "gave up after $failures failures in a row"
      return "$status"
    fi
  done
}

# the workers get the last commit, so what is not in it would be missed after the TPU is paid for
check_config() {
  local word file
  for word in ${words[@]+"${words[@]}"}; do
    [[ $word == --config=* && $word != --config=/* ]] || continue
    file=${word#*=} file=${file%%:*}
    git -C "$root" cat-file -e "HEAD:$file" 2> /dev/null \
      || refuse "$word is not in the last commit, which is what the workers get; commit it"
  done
}

trap 'exit 130' INT
[[ $dry_run == yes ]] || type -P gcloud git > /dev/null || refuse 'no gcloud or no git here; --dry-run needs neither'
[[ $dry_run == yes ]] || check_config
"$command"
