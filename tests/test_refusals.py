"""Bad input: exit status 2, one line that says what was found and what would do, nothing written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexidit_jax as fd
from flexidit_jax.main import main

ROOT = Path(__file__).parents[1]
DIGITS = ROOT / "configs" / "digits.py"
GOLDEN = Path(__file__).parent / "golden" / "dit_tiny.safetensors"
SMOKE = f"--config={DIGITS}:smoke"
SAMPLE = "--mode=sample"

Refuse = Callable[..., str]


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path with its content."""
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture
def refuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Refuse:
    """Runs `main` where it may write to `tmp_path` alone; returns the one line it says."""
    monkeypatch.chdir(tmp_path)

    def run(*argv: str) -> str:
        before = snapshot(tmp_path)
        capsys.readouterr()
        assert main(argv) == 2
        said = capsys.readouterr()
        assert snapshot(tmp_path) == before
        lines = said.err.splitlines()
        assert len(lines) == 1, said.err
        assert lines[0].startswith("error: ")
        return lines[0].removeprefix("error: ")

    return run


@pytest.fixture
def trained(smoke_run: Path, tmp_path: Path) -> str:
    """`--workdir` of a copy of the finished smoke run."""
    return f"--workdir={shutil.copytree(smoke_run, tmp_path / 'trained')}"


# ---------------------------------------------------------------- The command line


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "no --config given; start with --config=configs/digits.py"),
        ([SMOKE, "--wokdir=x"], "unknown argument '--wokdir=x'; did you mean '--workdir'?"),
        ([SMOKE, "extra"], "unknown argument 'extra'"),
        ([SMOKE, "--budget=0.5"], "unknown argument '--budget=0.5'; did you mean '--config.sample.budget=0.5'?"),
        ([SMOKE, "--budgt", "1"], "unknown argument '--budgt'; did you mean '--config.sample.budget=VALUE'?"),
        ([SMOKE, "--seed=3"], "unknown argument '--seed=3'; did you mean '--config.seed=3'?"),
        ([SMOKE, SAMPLE, "--seed=3"], "unknown argument '--seed=3'; did you mean '--config.sample.seed=3'?"),
        ([SMOKE, "--steps=3"], "unknown argument '--steps=3'; did you mean '--config.train.stages[0].steps=3'?"),
        ([SMOKE, "sample.budget=1"], "unknown argument 'sample.budget=1'; did you mean '--config.sample.budget=1'?"),
        (["--budget=0.5"], "unknown argument '--budget=0.5'; known: --config, --coordinator"),
        ([SMOKE, "--mode=smaple"], "unknown --mode='smaple'; did you mean 'sample'?"),
        ([SMOKE, "--mode"], "argument --mode: expected one argument; --help shows what there is"),
        ([SMOKE, "--workdir="], "--workdir is empty; name a folder, or leave it out"),
        (
            [SMOKE, "--workdir", "gs://a/b"],
            "--workdir=gs://a/b is an address; mount what is there and give the path of",
        ),
        ([SMOKE, "--mode=generate", "--out=gs://a"], "--out=gs://a is an address; mount what is there"),
        ([SMOKE, "--config.model=None"], "config key 'config.model' must be a section, got None"),
        ([SMOKE, "--config.train.batch"], "--config.train.batch has no value; write --config.train.batch=VALUE"),
    ],
)
def test_flags(refuse: Refuse, argv: list[str], message: str) -> None:
    assert refuse(*argv).startswith(message)


def test_a_config_of_another_mode(refuse: Refuse, tmp_path: Path) -> None:
    convert = DIGITS.with_name("convert.py")
    for mode in ("train", "sample"):
        assert refuse(f"--config={convert}", f"--mode={mode}") == (
            f"{convert} is for --mode=convert, not for --mode={mode}"
        )
    assert refuse(f"--config={convert}") == f"{convert} is for --mode=convert, not for --mode=train"
    assert refuse(f"--config={convert}", "--mode=convert").startswith("convert.target is not set")
    (tmp_path / "gap.py").write_text(
        "from ml_collections import ConfigDict as C\n\n\ndef get_config():\n    return C({'model': {}, 'sample': {}})\n"
    )
    assert refuse("--config=gap.py") == "config key 'config.seed' is missing"


def test_config_files(refuse: Refuse, tmp_path: Path) -> None:
    near = refuse(f"--config={DIGITS.with_name('digit.py')}")
    assert near.startswith(f"config file {DIGITS.with_name('digit.py')} does not exist; did you mean '{DIGITS}'?")
    assert refuse("--config=nowhere/x.py") == "config file nowhere/x.py does not exist"
    assert refuse(f"--config={DIGITS}:smoek").endswith("has no variant 'smoek'; known: smoke")
    (tmp_path / "empty.py").touch()
    assert refuse("--config=empty.py") == "config file empty.py has no get_config() function"


# ---------------------------------------------------------------- The config


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train.bach=3", "unknown config key 'train.bach'; did you mean 'batch'?"),
        ("train.stages[0].step=3", "unknown config key 'train.stages[0].step'; did you mean 'steps'?"),
        ("sample.budgt=0.5", "unknown config key 'sample.budgt'; did you mean 'budget'?"),
        ("sample.fils=0.5", "unknown config key 'sample.fils'; did you mean 'files'?"),
        ("sample.files.pngs=1", "unknown config key 'sample.files.pngs'"),
        ("sample.decod=0", "unknown config key 'sample.decod'; did you mean 'decode'?"),
        ("evaluate.features.hiden=(3,)", "unknown config key 'evaluate.features.hiden'; did you mean 'hidden'?"),
        ("sample.files=3", "config key 'sample.files' is a section, got '3'; set its keys, such as sample.files.clips"),
        ("train.mesh=x", "config key 'train.mesh' is a section, got 'x'; set its keys, such as train.mesh.data"),
        ("train.stages=3", "config key 'train.stages' is a section, got '3'; set its keys, such as train.stages[0]"),
        ("sample.labels[0]=3", "unknown config key 'sample.labels[0]'; did you mean 'sample.labels'?"),
        ("sample.guidance=1e999", "guidance must be finite, got inf"),
        ("tarin.batch=3", "unknown config key 'tarin.batch'; did you mean 'train.batch'?"),
        ("train.stages[2].steps=3", "unknown config key 'train.stages[2].steps'; did you mean"),
        ("train.batch=big", "config key 'train.batch' must be of type int, got 'big'"),
        ("train.batch=16.5", "config key 'train.batch' must be of type int, got '16.5'"),
        ("train.ema.warmup=2", "config key 'train.ema.warmup' must be of type bool, got '2'"),
        ("train.stages[1].patches=(2,3)", "patch 3 does not divide the latent 1x8x8 (frames x height x width)"),
        ("train.stages[1].patches=(2,'2x4x4')", "patch 2x4x4 does not divide the latent 1x8x8"),
        ("model.patch=3", "patch 3 does not divide the latent 1x8x8"),
        ("train.stages[1].patches=(1,2)", "patch 1 is smaller than the pre-trained patch 2; modes must be at least"),
        ("train.stages[0].patches=('1x2x1',)", "patch 2x1 is smaller than the pre-trained patch 2"),
        ("train.stages[0].steps=-6", "train.stages.steps must be positive, got -6"),
        ("train.batch=-16", "train.batch must be positive, got -16"),
        ("train.checkpoint_every=0", "train.checkpoint_every must be positive, got 0"),
        ("train.accumulate=0", "train.accumulate must be positive, got 0"),
        (
            "train.accumulate=3",
            "train.batch=16 gives each of the 1 device(s) along data x fsdp 16 record(s), which do not split into"
            " train.accumulate=3 parts; train.accumulate=2 would do, or train.batch=15",
        ),
        ("evaluate.samples=0", "evaluate.samples must be positive, got 0"),
        ("model.num_heads=5", "model.width must be a multiple of 4 and of model.num_heads=5, got 32"),
        ("model.latent=(1,16,16,1)", "model.latent is (1, 16, 16, 1), but dataset and codec make latents of"),
        ("model.conditioner.name=klasses", "no 'klasses' in conditioning/; did you mean 'classes'?"),
        ("dataset.name=digit", "no 'digit' in data/; did you mean 'digits'?"),
        ("dataset.held_out=5", "dataset.held_out must lie in 10..1787, got 5"),
        ("process.beta_end=1.5", "process.beta_end must lie in [beta_start, 1), got 1.5"),
        ("train.mesh.data=2", "mesh data=2 x fsdp=1 x tensor=1 does not fit 1 device(s); data=1 would do"),
        (
            "report.solvers[0].solver=heun",
            "solver 'heun' does not suit the gaussian process; these do: ddim, ddpm, dpmpp_2m",
        ),
        ("model.attention=cudnn", "model.attention='cudnn' does not run here (it is a kernel of NVIDIA GPUs, and this"),
        ("process.name=flow", "process.beta_start is a key of gaussian, not of flow; leave it out"),
        ("sample.solver={'name': 'ddim', 'tau': 1.0}", "solver.tau is a key of sa_solver, not of ddim; leave it out"),
        ("report.guidance[0].guide=8:4", "schedule '8:4' uses patch 8; the model has 2, 4"),
        ("sample.batch=-1", "sample.batch must be positive, got -1"),
        ("sample.seed=-1", "sample.seed must lie in 0..2^31-1, got -1"),
        ("search.seeds=(-1,0)", "search.seeds must lie in 0..2^31-2, got [-1, 0]"),
        ("init_from=3", "config key 'config.init_from' must be str or None, got 3"),
        ("profile_at=-1", "profile_at=-1 is no step of this run; 0..11 would do"),
        ("profile_at=12", "profile_at=12 is no step of this run; 0..11 would do"),
        ("compile.programs=[['train']]", "compile.programs must be a list of train, sample, got [['train']]"),
        ("seed=None", "config key 'config.seed' must be int, got None"),
        ("train.optimizer.clip=abc", "config key 'train.optimizer.clip' must be float or None, got 'abc'"),
        ("train.stages[0].steps=None", "config key 'train.stages[0].steps' must be int, got None"),
        ("model.latent=(1,8,8,'a')", "model.latent must be (frames, height, width, channels), got (1, 8, 8, 'a')"),
        ("init_from=nowhere", "nowhere does not exist; give a run's folder, a saved model or a DiT weight file"),
        (f"init_from={GOLDEN}", f"init_from={GOLDEN} holds FlexiDiT(width 64,"),
    ],
)
def test_training_configs(refuse: Refuse, words: str, message: str) -> None:
    assert refuse(SMOKE, f"--config.{words}", "--workdir=run").startswith(message)


def test_adapters_of_nothing(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "only.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(DIGITS.with_name('digits_adapters.py'))!r})['get_config']('smoke')\n"
        "    config.train.stages = config.train.stages[1:]\n"
        "    return config\n"
    )
    assert refuse("--config=only.py", "--workdir=run") == (
        "train.stages[0].adapters=16 adapts a pre-trained model, but init_from is None, so it would learn from random"
        " weights; set init_from to such a model, or put a stage that trains all weights before it"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"fsdp": 10, "tensor": 1}, "mesh fsdp=10 does not divide the model's width 32, so it would split no kernel"),
        (
            {"fsdp": 1, "tensor": 8},
            "mesh tensor=8 does not divide the model's 4 attention heads, nor split the 4 tokens",
        ),
    ],
)
def test_a_mesh_that_would_split_nothing(
    refuse: Refuse, monkeypatch: pytest.MonkeyPatch, words: dict[str, int], message: str
) -> None:
    mesh = SimpleNamespace(shape={"data": 1, **words}, size=words["fsdp"] * words["tensor"])
    monkeypatch.setattr("flexidit_jax.jobs.train.make_mesh", lambda **_: mesh)
    assert refuse(SMOKE).startswith(message)


@pytest.mark.parametrize(
    ("section", "typo", "valid"),
    [
        ("train", "checkpont_every", "checkpoint_every"),
        ("train.optimizer", "weigth_decay", "weight_decay"),
        ("train.ema", "warmpu", "warmup"),
        ("train.mesh", "tensors", "tensor"),
        ("train.loss", "vlb_wieght", "vlb_weight"),
        ("process", "beta_strat", "beta_start"),
        ("model", "widht", "width"),
        ("model.conditioner", "clases", "classes"),
        ("sample", "guidence", "guidance"),
        ("evaluate", "sample", "samples"),
        ("report", "weak_frist", "weak_first"),
    ],
)
def test_a_typo_in_a_config_file(refuse: Refuse, tmp_path: Path, section: str, typo: str, valid: str) -> None:
    (tmp_path / "typo.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(DIGITS)!r})['get_config']('smoke')\n"
        f"    config.{section}.{typo} = 3\n"
        "    return config\n"
    )
    message = refuse("--config=typo.py", "--workdir=run")
    assert message == f"unknown config key '{section}.{typo}'; did you mean '{valid}'?"


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("sample", "config key 'config.sample' must be a section, got 3"),
        ("sample.files", "config key 'sample.files' must be a section or None, got 3"),
        ("train.optimizer", "config key 'train.optimizer' must be a section, got 3"),
        ("train.stages", "train.stages must be a list of sections, got 3"),
        ("train.loss", "config key 'train.loss' must be a section, got 3"),
        ("model.conditioner", "config key 'model.conditioner' must be a section, got 3"),
        ("report.solvers", "report.solvers must be a list of sections, got 3"),
        ("export.pairs", "export.pairs must be a list with something in it, got 3"),
        ("evaluate.features", "config key 'evaluate.features' must be a section, got 3"),
    ],
)
def test_a_number_for_a_section_in_a_config_file(refuse: Refuse, tmp_path: Path, section: str, says: str) -> None:
    (tmp_path / "number.py").write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(DIGITS)!r})['get_config']('smoke')\n"
        "    with config.ignore_type():\n"
        f"        config.{section} = 3\n"
        "    return config\n"
    )
    assert refuse("--config=number.py", "--workdir=run") == says


# ---------------------------------------------------------------- Sampling


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["schedule=4:1,2:1"], "schedule '4:1,2:1' adds up to 2 steps, but steps=4"),
        (["schedule=8:1,2:3"], "schedule '8:1,2:3' uses patch 8; the model has 2, 4"),
        (["schedule=4-1,2-3"], "schedule '4-1,2-3' is not of the form patch:steps,patch:steps"),
        (["schedule=5/0"], "5/0 powerful steps do not fit into steps=4"),
        (
            ["schedule=4:4", "budget=0.5"],
            "--config.sample.budget=0.5 and --config.sample.schedule=4:4 speak of the same; give one of them",
        ),
        (["budget=0.1"], "budget 0.1 is below what patch 4 alone costs; the least this model can do is 0.28"),
        (["budget=1.5"], "budget must lie in (0, 1] (1 runs every step powerful), got 1.5"),
        (["labels=(0,11)"], "label 11 is out of range: 0..10, 10 meaning no class"),
        (["labels=(-1,)"], "label -1 is out of range"),
        (["labels=(1.5,)"], "label 1.5 is not an integer in 0..10"),
        (["labels=()"], "labels are empty; give at least one of 0..10"),
        (["steps=-3"], "steps must lie in 1..1000 (the process has 1000), got -3"),
        (["steps=0"], "steps must lie in 1..1000 (the process has 1000), got 0"),
        (["steps=1001"], "steps must lie in 1..1000 (the process has 1000), got 1001"),
        (["schedule=4"], "config key 'sample.schedule' must be str or None, got 4"),
        (["seed=1.5"], "config key 'sample.seed' must be of type int, got '1.5'"),
        (["size=(16,8)"], "size=(16, 8): this model draws 8x8 alone, since its positions count patches"),
        (["aspect=3:2"], "aspect='3:2': this model draws 8x8 alone, since its positions count patches"),
        (
            ["size=(16,8)", "aspect=3:2"],
            "--config.sample.size=(16, 8) and --config.sample.aspect=3:2 speak of the same",
        ),
        (["size=8"], "size must be (height, width) in pixels, such as (512, 768), got 8"),
        (["images_per_prompt=0"], "sample.images_per_prompt must be positive, got 0"),
        (["prompts=a red apple"], "sample.prompts are for a model of texts, and this one is of another kind; set"),
        (["batch=0"], "sample.batch must be positive, got 0"),
        (["guidance=nan:4"], "guidance 'nan:4' holds a number that is not finite"),
        (["solver=dpm++"], "no 'dpm++' in solvers/; did you mean 'dpmpp_2m'?"),
        (["solver=dpdm"], "no 'dpdm' in solvers/; did you mean 'ddpm'?"),
        (
            ["schedule=4:4", "guide=2:4", "guidance=1.5"],
            "at step 0 the guide (patch 2) is more powerful than the conditional prediction (patch 4); make it equal",
        ),
        (["packing=pack"], "no packing 'pack'; did you mean 'packed'?"),
        (["latency_ms=-1"], "latency_ms must be a positive number of milliseconds, got -1"),
        (
            ["latency_ms=9", "budget=0.5"],
            "--config.sample.budget=0.5 and --config.sample.latency_ms=9 speak of the same; give one of them",
        ),
        (["guide=4:3", "guidance=1.5"], "schedule '4:3' adds up to 3 steps, but steps=4"),
    ],
)
def test_sampling_words(refuse: Refuse, trained: str, words: list[str], message: str) -> None:
    if not any(word.startswith("budget") for word in words):
        words = [*words, "budget=None"]
    assert refuse(SMOKE, SAMPLE, trained, *(f"--config.sample.{word}" for word in words)).startswith(message)


# ---------------------------------------------------------------- Folders


@pytest.mark.parametrize("mode", ["sample", "evaluate", "report"])
def test_a_folder_without_a_checkpoint(refuse: Refuse, tmp_path: Path, mode: str) -> None:
    (tmp_path / "run").mkdir()
    assert refuse(SMOKE, f"--mode={mode}", "--workdir=run") == (
        "run holds no checkpoint; train there first, or name another folder"
    )
    assert refuse(SMOKE, f"--mode={mode}", "--workdir=nowhere").startswith("nowhere does not exist; give a run's")


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate", "report"])
def test_a_folder_trained_with_another_config(refuse: Refuse, trained: str, mode: str) -> None:
    message = refuse(SMOKE, f"--mode={mode}", trained, "--config.train.stages[1].learning_rate=0.5")
    assert message == (
        f"{trained} was trained with another config: train.stages[1].learning_rate is 0.001 there, 0.5 here;"
        " name another --workdir, or go on with '--config.train.stages[1].learning_rate=0.001'"
    )


@pytest.mark.parametrize("mode", ["train", "sample", "evaluate"])
def test_no_whole_checkpoint_left(refuse: Refuse, trained: str, mode: str) -> None:
    folder = Path(trained.removeprefix("--workdir=")) / "checkpoints"
    (folder / "12" / "ema" / "_METADATA").unlink()
    meta = folder / "8" / "meta" / "metadata"
    size = meta.stat().st_size
    meta.write_bytes(meta.read_bytes()[:100])
    assert refuse(SMOKE, f"--mode={mode}", trained) == (
        f"every checkpoint in {folder} is damaged: step 12 (ema/_METADATA is missing),"
        f" step 8 (meta/metadata has 100 of {size} bytes); all stay as they are: put a good copy there, or name another"
        " --workdir"
    )


@pytest.mark.parametrize("workdir", ["/dev/null/x", "file", "file/below"])
def test_an_unwritable_folder(refuse: Refuse, tmp_path: Path, workdir: str) -> None:
    (tmp_path / "file").touch()
    message = refuse(SMOKE, f"--workdir={workdir}")
    assert re.fullmatch(rf"cannot write to --workdir={workdir} \(.+\); name a folder you may write", message)


# ---------------------------------------------------------------- Weight files


@pytest.fixture
def damage(tmp_path: Path) -> Callable[..., Path]:
    """Writes the golden weight file without some keys and with others changed."""

    def write(without: tuple[str, ...] = (), **changed: np.ndarray) -> Path:
        tensors = {key: value for key, value in load_file(GOLDEN).items() if key not in without}
        tensors |= {key.replace("__", "."): np.ascontiguousarray(value) for key, value in changed.items()}
        save_file(tensors, tmp_path / "model.safetensors", {"num_heads": "4"})
        return (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")

    return write


def refused(path: Path) -> str:
    with pytest.raises(fd.UserError) as caught:
        fd.load(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_keys_are_all_named(damage: Callable[..., Path]) -> None:
    gone = ("blocks.1.attn.qkv.weight", "t_embedder.mlp.2.bias")
    path = damage(without=gone)
    message = refused(path)
    assert message.startswith(f"{path}: not a DiT state dict: ")
    for key in gone:
        assert f"missing {key}" in message
    assert message.removeprefix(str(path)).count("missing") == 2


@pytest.mark.parametrize("key", ["x_embedder.proj.weight", "y_embedder.embedding_table.weight"])
def test_a_missing_key_that_tells_the_size_is_named(damage: Callable[..., Path], key: str) -> None:
    assert f"missing {key}" in refused(damage(without=(key,)))


def test_misshapen_and_extra_keys_are_named(damage: Callable[..., Path]) -> None:
    path = damage(blocks__2__attn__proj__bias=np.zeros(63, np.float32), adapter=np.zeros(1, np.float32))
    message = refused(path)
    assert "blocks.2.attn.proj.bias is [63] instead of [64]" in message
    assert "unexpected adapter" in message


def test_files_that_hold_no_weights(tmp_path: Path) -> None:
    assert refused(tmp_path / "x.safetensors").startswith(f"{tmp_path}/x.safetensors does not exist; give a run's")
    (tmp_path / "half.safetensors").write_bytes(GOLDEN.read_bytes()[:10_000])
    assert refused(tmp_path / "half.safetensors").startswith(f"{tmp_path}/half.safetensors is not a readable")
    (tmp_path / "weights.bin").touch()
    assert refused(tmp_path) == f"{tmp_path} holds several weight files; name one, such as {tmp_path}/half.safetensors"
    (tmp_path / "weights.txt").touch()
    assert refused(tmp_path / "weights.txt").startswith(f"{tmp_path}/weights.txt is no weight file; a .safetensors")


# ---------------------------------------------------------------- As a process


def process(*argv: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "flexidit_jax.main", *argv]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, timeout=300
    )


@pytest.mark.slow
def test_exit_status_and_the_line_of_a_process(tmp_path: Path) -> None:
    ended = process(SMOKE, f"--workdir={tmp_path / 'run'}", "--config.train.bach=3")
    assert ended.returncode == 2
    assert ended.stderr == "error: unknown config key 'train.bach'; did you mean 'batch'?\n"
    assert ended.stdout == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_help_says_nothing_but_help(tmp_path: Path) -> None:
    ended = process(SMOKE, f"--workdir={tmp_path / 'run'}", "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "--config.train.batch=16\n        records per step" in ended.stdout


@pytest.mark.slow
def test_a_batch_that_the_devices_do_not_divide(tmp_path: Path) -> None:
    three = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=3"
    ended = process(SMOKE, f"--workdir={tmp_path / 'run'}", XLA_FLAGS=three)
    assert ended.returncode == 2
    assert ended.stderr == (
        "error: train.batch=16 is not divisible by the 3 device(s) along data x fsdp; 15 would do\n"
    )
    assert not (tmp_path / "run").exists()
