#!/usr/bin/env bash
# ImageNet as array records, from the two official tars: what flexidit_jax/data/imagenet.py reads.
set -euo pipefail

usage() {
  cat <<'END'
usage: launch/prepare_imagenet.sh --data-dir=DIR [--tars=DIR] [--python=PATH] [--md5] [--dry-run]

Makes DIR/imagenet2012 (array records) with tensorflow-datasets and TensorFlow, which installing the package
brings, then checks that all its files are there, and for how many images. Training finds it with
--config.dataset.data_dir=DIR. A data set that is already there is only checked: delete DIR/imagenet2012 to make
it anew.

  --data-dir=DIR   where tensorflow-datasets keeps its data (the program's default: ~/tensorflow_datasets)
  --tars=DIR       where ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar lie, downloaded from
                   image-net.org (default: DATA_DIR/downloads/manual)
  --python=PATH    the Python with the package (default: .venv/bin/python beside this folder)
  --md5            compare both tars with their published MD5 sums first
  --dry-run        print every command, one per line, and run none
  --help           show this and exit

Exit status: 0 done, 2 bad input (one line says what), else that of the command that failed.
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

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data_dir='' tars='' python="$root/.venv/bin/python" md5=no dry_run=no
for word in "$@"; do
  case $word in
    --data-dir=*) data_dir=${word#*=} ;;
    --tars=*) tars=${word#*=} ;;
    --python=*) python=${word#*=} ;;
    --md5) md5=yes ;;
    --dry-run) dry_run=yes ;;
    --help) usage && exit 0 ;;
    *) refuse "unknown argument '$word'; known: --data-dir=DIR --tars=DIR --python=PATH --md5 --dry-run --help" ;;
  esac
done
[[ -n $data_dir ]] || refuse 'no --data-dir given; the program looks in ~/tensorflow_datasets by default'
# the shell leaves the ~ of --data-dir=~/x alone
data_dir=${data_dir/#'~/'/$HOME/}
tars=${tars/#'~/'/$HOME/}
tars=${tars:-$data_dir/downloads/manual}

# ---------------------------------------------------------------- what must be there
train=$tars/ILSVRC2012_img_train.tar
val=$tars/ILSVRC2012_img_val.tar
there=no
! compgen -G "$data_dir/imagenet2012/*/dataset_info.json" > /dev/null || there=yes
if [[ $dry_run == no ]]; then
  command -v -- "$python" > /dev/null || refuse "no Python at $python; run make once, or name one with --python=PATH"
  if [[ $there == no ]]; then
    for tar in "$train" "$val"; do
      [[ -f $tar ]] \
        || refuse "no $tar; download it from image-net.org (it asks for an account), or name its folder with --tars=DIR"
      # reads the headers alone, to the end
      { [[ -s $tar ]] && tar -tf "$tar" > /dev/null 2>&1; } \
        || refuse "$tar is no whole tar; download it again, --md5 compares it with the published one"
    done
    mkdir -p -- "$data_dir"
    needed=$(($(du -ck -- "$train" "$val" | tail -n 1 | cut -f 1)))
    free=$(df -Pk -- "$data_dir" | awk 'NR == 2 { print $4 }')
    # the records hold the same JPEGs, so less than the tars can never be enough
    ((free > needed)) \
      || refuse "$data_dir has $((free / 1048576)) GiB free, the records take at least $((needed / 1048576)) GiB"
  fi
fi

# ---------------------------------------------------------------- build, then check
if [[ $md5 == yes ]]; then
  execute env -C "$tars" md5sum -c "$root/launch/imagenet.md5" \
    || refuse "the tars in $tars are not the published ones (above); download what FAILED again"
fi
# not `tfds build`: the command line of tensorflow-datasets does not start without apache-beam, which is not needed here
[[ $there == yes ]] || execute "$python" -c "import sys
import tensorflow_datasets as tfds
builder = tfds.builder('imagenet2012', data_dir=sys.argv[1], file_format='array_record')
builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=sys.argv[2]))" "$data_dir" "$tars"
execute env "PYTHONPATH=$root" "$python" -c "import sys
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.imagenet import Dataset
data = Dataset(data_dir=sys.argv[1])
try:
    found = len(data.source()), len(data.held_out())
except UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
if found != (1281167, 50000):
    sys.exit(f'error: {found} images to train on and held out, not (1281167, 50000)')" "$data_dir"
