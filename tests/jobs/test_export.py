"""`--mode=export`, and `launch/serve_exported.py` sampling from what it wrote."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import jax
import jax.export
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.jobs import export
from flexidit_jax.main import main
from flexidit_jax.programs.bundle import Export, write_exported
from flexidit_jax.programs.export import parse_pairs, runnable_pairs
from flexidit_jax.sampling.spec import OWN

ROOT = Path(__file__).parents[2]
SERVE = ROOT / "launch" / "serve_exported.py"
SMOKE = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"
P2, P4, PT = (1, 2, 2), (1, 4, 4), (2, 4, 4)
SHAPE = (1, 8, 8, 4)
SA = {"name": "sa_solver", "tau": 0.5}
SECTION = Export(
    tables=({"solver": "ddpm", "steps": 5}, {"solver": "ddim", "steps": 4}, {"solver": SA, "steps": 4}),
    guidance_channels=3,
)


def write(flex: fd.FlexiDiT, folder: Path, section: Export = SECTION) -> list[str]:
    return write_exported(flex, section, section.solver_tables(flex.process, {}), folder)


def assert_same_sample(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()


@pytest.fixture(scope="module")
def exported(flex: fd.FlexiDiT, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("exported") / "folder"
    assert write(flex, folder) == ["2+none", "4+none", "2+2", "2+4", "4+4"]
    return folder


@pytest.fixture(scope="module")
def serve() -> ModuleType:
    spec = spec_from_file_location("serve_exported", SERVE)
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# ---------------------------------------------------------------- Served samples


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("ddpm_5", {}),
        ("ddpm_5", {"schedule": "4:3,2:2", "guidance": 1.5, "seed": 3, "first": 7}),
        ("ddpm_5", {"schedule": "4:1,2:4", "guide": "none:1,4:3,2:1", "guidance": 4.0}),
        ("ddim_4", {"guidance": 2.0, "guide": "4:4"}),
        ("ddim_4", {"guidance": 2.0, "schedule": "4:2,2:2", "guide": "4:3,2:1", "negative": [3]}),
        ("ddim_4", {"guidance": 2.0, "schedule": "4:2,2:2", "guide": "4:3,2:1", "negative": [3, 1, None, 3, 2]}),
        ("sa_solver_4", {"schedule": "4:2,2:2"}),
    ],
)
def test_serves_what_sample_draws(
    flex: fd.FlexiDiT, exported: Path, serve: ModuleType, table: str, words: dict[str, Any]
) -> None:
    labels = [5, None, 0, 3, None]  # as many as no module that counts programs samples
    solver, steps = table.rsplit("_", 1)
    served = serve.sample(exported, labels, table=table, **words)
    words = {"guidance": 1.0, "guidance_channels": 3, **words}
    solver = SA if solver == "sa_solver" else solver
    ours = flex.sample(labels, solver=solver, steps=int(steps), decode=False, progress=False, **words)
    assert_same_sample(served[:, 0], ours)


def test_any_batch_size(flex: fd.FlexiDiT, exported: Path, serve: ModuleType) -> None:
    words = {"schedule": "2:5", "guidance": 1.0, "seed": 1}
    three, two = serve.sample(exported, [1, 2, 3], **words), serve.sample(exported, [2, 3], first=1, **words)
    assert_same_sample(two, three[1:])


def test_every_sample_has_a_row_of_its_own(flex: fd.FlexiDiT, exported: Path) -> None:
    """One call of an artifact: two samples at other steps of other solvers, with other scales."""
    manifest, tables = json.loads((exported / "manifest.json").read_text()), np.load(exported / "tables.npz")
    stored = np.load(exported / "weights.npz")

    def program(entry: dict[str, Any]) -> tuple[Any, list[np.ndarray]]:
        content = bytearray((exported / entry["file"]).read_bytes())
        return jax.export.deserialize(content).call, [stored[name] for name in entry["weights"]]

    step, weights = program(manifest["programs"]["2+4"])
    rows, scale = np.stack([tables["ddpm_5"][1], tables["ddim_4"][3]]), np.array([1.2, 2.0], np.float32)
    rng = np.random.default_rng(0)
    *carry, noise = (rng.normal(size=(2, *SHAPE)).astype(np.float32) for _ in range(5))
    carry.append(np.full((2, 1, 1, 1, 1), -1, np.float32))
    cond = [np.array([3, 0], np.int32), np.array([False, True])]
    t = rows[:, manifest["columns"].index("t")]
    modes = [program(manifest["modulations"][mode]) for mode in ("2", "4")]
    made = [leaf for run, mine in modes for leaf in run(mine, t, cond)]
    pick = np.array([[0, 0], [1, 1]], np.int32)  # of both tables
    together = step(weights, made, rows, scale, pick, *carry, cond, cond, noise)
    for i in range(2):
        words = jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], (rows, scale, pick, *carry, cond, cond, noise))
        for ours, theirs in zip(together, step(weights, made, *words), strict=True):
            np.testing.assert_allclose(ours[i : i + 1], theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


def test_programs_are_for_every_platform(exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    assert set(manifest["programs"]) == {"noise", "2+none", "4+none", "2+2", "2+4", "4+4"}
    assert set(manifest["modulations"]) == {"2", "4"}
    entries = [*manifest["programs"].values(), *manifest["modulations"].values()]
    for entry in entries:
        content = (exported / entry["file"]).read_bytes()
        assert jax.export.deserialize(bytearray(content)).platforms == ("cpu", "cuda", "tpu")
        assert hashlib.sha256(content).hexdigest() == entry["sha256"]
    assert {file.name for file in exported.iterdir()} == {
        *("manifest.json", "tables.npz", "weights.npz", "serve_exported.py"),
        *(entry["file"] for entry in entries),
    }  # fmt: skip


def test_weights_are_written_once(flex: fd.FlexiDiT, exported: Path) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    weights = np.load(exported / "weights.npz")
    assert sum(weights[name].nbytes for name in weights) == flex.sampling_bytes
    assert set(weights) == set(manifest["weights"])
    entries = [*manifest["programs"].values(), *manifest["modulations"].values()]
    assert {name for entry in entries for name in entry.get("weights", ())} == set(weights)
    for name, said in manifest["weights"].items():
        assert (list(weights[name].shape), str(weights[name].dtype)) == (said["shape"], said["dtype"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "guidance: 1 (in Python 1.5 unless said)\n"),
        (["--guidance=1.5"], ""),
        (["--guidance=3"], "guidance: 3 (in Python 1.5 unless said)\n"),
    ],
)
def test_it_says_a_guidance_that_is_not_that_of_python(
    exported: Path, tmp_path: Path, serve: ModuleType, capsys: pytest.CaptureFixture[str], words: list[str], says: str
) -> None:
    assert OWN["guidance"] == serve.GUIDANCE
    serve.main([str(exported), "--cond=1", f"--out={tmp_path / 'x.npy'}", *words])
    said, written = capsys.readouterr().out.rsplit("written: ", 1)
    assert (said, written.partition(",")[0]) == (says, str(tmp_path / "x.npy"))


@pytest.mark.slow
def test_the_command_and_a_server_without_the_package(smoke_run: Path, tmp_path: Path) -> None:
    run = shutil.copytree(smoke_run, tmp_path / "run")
    assert main([SMOKE, f"--workdir={run}", "--mode=export", "--config.export.tables[0].steps=4"]) == 0
    flags = ["--cond=1,2,3", "--schedule=4:2,2:2", "--guidance=1.5", "--seed=7", "--out=x.npy"]
    program = (
        "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__');"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    words = [sys.executable, "-c", program, str(run / "exported" / "serve_exported.py"), *flags]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    loaded = set(done.stdout.split())
    assert {"jax", "numpy"} <= loaded
    assert not loaded & {"flexidit_jax", "flax", "optax", "orbax", "clu", "safetensors", "tensorflow", "torch"}
    words = {"steps": 4, "schedule": "4:2,2:2", "guidance": 1.5, "seed": 7}
    ours = fd.load(run).sample([1, 2, 3], decode=False, progress=False, **words)
    assert_same_sample(np.load(tmp_path / "x.npy")[:, 0], ours)


def test_a_server_says_of_a_lost_sample_what_the_sampler_says(
    flex: fd.FlexiDiT,
    spoilt: Callable[..., fd.FlexiDiT],
    exported: Path,
    tmp_path: Path,
    serve: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The null condition is spoilt, and guides from the fourth step on; one sample has it as its own."""
    folder, out = tmp_path / "spoilt", tmp_path / "x.npy"
    write(spoilt(flex, 10), folder)
    words = {"schedule": "2:5", "guide": "none:3,2:2", "guidance": 1.5, "guidance_channels": 3, "first": 7}
    with pytest.raises(fd.NotFinite) as caught:
        spoilt(flex, 10).sample([1, None, 3], steps=5, decode=False, progress=False, **words)
    assert caught.value.rows == ((7, 4, 5), (8, 1, 5), (9, 4, 5))
    flags = ["--schedule=2:5", "--guide=none:3,2:2", "--guidance=1.5", "--first=7", f"--out={out}"]
    with pytest.raises(SystemExit) as ended:
        serve.main([str(folder), "--cond=1,none,3", *flags])
    assert ended.value.code == 1
    assert capsys.readouterr().err == f"error: {caught.value}\n"
    with pytest.raises(SystemExit):
        serve.main([str(folder), "--cond=1,none,3", f"--out={out}"])  # unguided: one is lost
    served, sound = np.load(out), serve.sample(exported, [1, 3, 3])
    assert not served[1].any()
    assert_same_sample(served[0], sound[0])


def test_the_server_imports_jax_and_numpy_alone() -> None:
    nodes = list(ast.walk(ast.parse(SERVE.read_text())))
    tops = {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    tops |= {node.module.split(".")[0] for node in nodes if isinstance(node, ast.ImportFrom)}
    assert tops - sys.stdlib_module_names == {"jax", "numpy"}


@pytest.mark.parametrize("name", ["x.npy", "x"])
def test_the_server_says_what_it_wrote(
    exported: Path, serve: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    serve.main([str(exported), "--cond=1,2,none", "--table=ddim_4", f"--out={tmp_path / name}"])
    said = capsys.readouterr()
    written = f"written: {tmp_path / 'x.npy'}, latents of 3 sample(s), float32 [3, 1, 8, 8, 4]"
    assert said.out.splitlines()[-1] == written
    assert np.load(tmp_path / "x.npy").shape == (3, 1, 8, 8, 4)


# ---------------------------------------------------------------- The server refuses


def flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 255
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "flags", "said"),
    [
        (lambda folder: flip(folder / "step_2_none.bin"), [], "step_2_none.bin is not the file that was exported"),
        (lambda folder: flip(folder / "weights.npz"), [], "Bad CRC-32|Bad magic|header|Overlapped"),
        (lambda folder: (folder / "weights.npz").unlink(), [], "No such file .*weights.npz"),
        (lambda folder: (folder / "noise.bin").unlink(), [], "No such file .*noise.bin"),
        (lambda folder: (folder / "manifest.json").write_text("{"), [], "Expecting"),
        (lambda folder: (folder / "manifest.json").unlink(), [], "copy holds no exported model; --mode=export writes"),
        (None, ["--table=ddpm_7"], "ddpm_7 is not a file"),
        (None, ["--schedule=2:4"], "'2:4' adds up to 4 steps, but the table has 5"),
        (None, ["--schedule=3:5"], r"no program 3\+none; there are noise, 2\+none"),
        (None, ["--schedule=4:5", "--guide=2:5", "--guidance=2"], r"no program 4\+2"),
        (None, ["--guidance=nan"], "guidance must be finite, got nan"),
        (None, ["--guidance=inf"], "guidance must be finite, got inf"),
        (None, ["--seed=-1"], r"seed must lie in 0..2\^32-1, got -1"),
        (None, [f"--seed={2**32}"], r"seed must lie in 0..2\^32-1, got 4294967296"),
        (None, ["--first=-1"], r"first must lie in 0..2\^32-3 for 3 samples, got -1"),
        (None, [f"--first={2**32 - 2}"], r"first must lie in 0..2\^32-3 for 3 samples, got 4294967294"),
        (None, ["--cond=10"], r"label of cond must lie in 0\.\.9, got \[10\]"),
        (None, ["--cond=one"], r"'one' is neither numbers such as 1,2,none nor an \.npz"),
        (None, ["--negative=1.5"], r"'1\.5' is neither numbers such as 1,2,none nor an \.npz"),
        (None, ["--guide=4:5"], "guide is read by no step: guidance=1 runs no guide; change that, or leave guide out"),
        (None, ["--negative=1"], "negative is read by no step: guidance=1 runs no guide"),
        (None, ["--negative=1,2"], "negative must be one for all samples or one for each of 3"),
        (None, ["--cond=nowhere.npz"], "No such file or directory: 'nowhere.npz'"),
    ],
)
def test_one_line_says_what_is_wrong(
    exported: Path,
    tmp_path: Path,
    serve: ModuleType,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[Path], None] | None,
    flags: list[str],
    said: str,
) -> None:
    folder = shutil.copytree(exported, tmp_path / "copy") if damage else exported
    if damage:
        damage(folder)
    with pytest.raises(SystemExit) as stopped:
        serve.main([str(folder), "--cond=1,2,3", f"--out={tmp_path / 'x.npy'}", *flags])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("error: ") and message.count("\n") == 1
    assert re.search(said, message), message
    assert not (tmp_path / "x.npy").exists()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"label": 3}, r"label of cond must be int32 \[0\], got int64 \[\]"),
        ({"label": [1, 2], "nul": [True, False]}, "cond of this model has no 'nul'; it has label, null"),
        ({"label": [1, 2], "null": [1, 0]}, r"null of cond must be bool \[2\], got int64 \[2\]"),
        ({"null": [True]}, r"label of cond must be int32 \[1\], got nothing"),
        ({}, "label of cond must be int32 .*, got nothing"),
    ],
)
def test_arrays_that_are_no_condition(
    exported: Path, tmp_path: Path, serve: ModuleType, capsys: pytest.CaptureFixture[str], arrays: dict, said: str
) -> None:
    np.savez(tmp_path / "cond.npz", **arrays)
    with pytest.raises(SystemExit) as stopped:
        serve.main([str(exported), f"--cond={tmp_path / 'cond.npz'}", f"--out={tmp_path / 'x.npy'}"])
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert re.fullmatch(f"error: {said}\n", message), message


@pytest.mark.parametrize("found", [3, None, "4"])
def test_another_format_is_refused_before_anything_is_read(
    exported: Path, tmp_path: Path, serve: ModuleType, capsys: pytest.CaptureFixture[str], found: object
) -> None:
    manifest = json.loads((exported / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format": found, "tables": None}))
    with pytest.raises(SystemExit) as ended:
        serve.main([str(tmp_path), "--cond=1"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path} is an export of format {found!r}, and this script reads 4; use the serve_exported.py that"
        " came with it, or export again\n"
    )


@pytest.mark.parametrize("manifest", ["[]", "3", "null", '{"num": 3, "shard": 3}'])
def test_a_manifest_of_something_else_is_not_read(tmp_path: Path, serve: ModuleType, manifest: str) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(ValueError, match=r"manifest\.json is not that of an export$"):
        serve.sample(tmp_path, [1])


def test_steps_are_added_up_before_they_are_spelt_out(serve: ModuleType) -> None:
    with pytest.raises(ValueError, match="adds up to 99999999999999 steps, but the table has 5"):
        serve.per_step("2:99999999999999", 5)
    with pytest.raises(ValueError, match=r"'2' is not of the form patch:steps,patch:steps"):
        serve.per_step("2", 5)
    assert serve.per_step("4:2,2:1", 3) == ["4", "4", "2"]


def test_an_export_holds_the_script_that_reads_it(exported: Path) -> None:
    assert (exported / "serve_exported.py").read_bytes() == SERVE.read_bytes()
    assert json.loads((exported / "manifest.json").read_text())["format"] == 4


# ---------------------------------------------------------------- The section


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"platforms": ("cpu", "gpu")}, "export.platforms must be of cpu, cuda, rocm, tpu, got 'gpu'"),
        ({"platforms": ()}, r"export.platforms must be a list with something in it, got \(\)"),
        ({"platforms": "cpu"}, "export.platforms must be a list with something in it, got 'cpu'"),
        ({"pairs": ()}, "export.pairs must be a list"),
        ({"tables": {"solver": "ddpm"}}, "export.tables must be a list"),
        ({"tables": ({"solver": "ddpm", "step": 3},)}, "is not of the form"),
        ({"tables": ("ddpm",)}, "'ddpm' is not of the form"),
        ({"tables": ({"solver": "dppm", "steps": 3},)}, "no 'dppm' in solvers/; did you mean 'ddpm'"),
        ({"tables": ({"solver": "ddpm", "steps": 1001},)}, "1001"),
        ({"tables": ({"solver": SA, "steps": 3}, {"solver": "sa_solver", "steps": 3})}, "sa_solver_3 is there twice"),
        ({"guidance_channels": 5}, "export.guidance_channels must lie in 1..4, got 5"),
        ({"pairs": ("4+2",)}, "export.pairs: this model has no pair '4\\+2'"),
        ({"pairs": ("3",)}, "export.pairs: this model has no pair '3'"),
    ],
)
def test_a_bad_section_is_refused(flex: fd.FlexiDiT, tmp_path: Path, words: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match=said):
        write(flex, tmp_path / "out", Export(**{"tables": SECTION.tables, **words}))
    assert list(tmp_path.iterdir()) == []


def test_attention_of_one_platform_is_refused(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    cudnn = dataclasses.replace(flex, model=flex.model.clone(attention="cudnn"))
    with pytest.raises(UserError, match=r"model.attention='cudnn' .*--config.model.attention=auto"):
        write(cudnn, tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="is there and holds no export"):
        write(flex, tmp_path / "out")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years"


@pytest.mark.parametrize("manifest", ['{"num": 3, "shard": 3}', "{", "[]", '{"format": 1}'])
def test_a_manifest_of_something_else_is_no_export(flex: fd.FlexiDiT, tmp_path: Path, manifest: str) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_text(manifest)
    section = Export(platforms=("cpu",), pairs=("4",), tables=({"solver": "ddim", "steps": 3},))
    with pytest.raises(UserError, match=r"is there and holds no export; name another --out"):
        write(flex, tmp_path / "out", section)
    assert (tmp_path / "out" / "manifest.json").read_text() == manifest


def test_tables_are_of_the_models_process(smoke_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flex = fd.load(smoke_run)
    process = dataclasses.replace(flex.process, steps=100)  # the config's has a thousand
    dataclasses.replace(flex, process=process).save(tmp_path / "model")
    written = []

    def note(flex: fd.FlexiDiT, section: Export, tables: dict, folder: Path) -> list[str]:
        folder.mkdir(parents=True)
        written.append(tables)
        return []

    monkeypatch.setattr(export, "write_exported", note)
    flags = [f"--workdir={tmp_path / 'none'}", "--mode=export", f"--config.init_from={tmp_path / 'model'}"]
    assert main([SMOKE, *flags]) == 0
    for name, table in written[0].items():
        solver, steps = name.split("_")
        theirs = Export().solver_tables(process, fd.SampleSpec(solver=solver, steps=int(steps)))[name]
        np.testing.assert_array_equal(table.rows(), theirs.rows())


def test_an_unwritable_folder_names_the_flag(
    smoke_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    out = f"--config.export.out={tmp_path / 'file'}"
    assert main([SMOKE, f"--workdir={smoke_run}", "--mode=export", out]) == 2
    assert capsys.readouterr().err == f"error: cannot write to {tmp_path / 'file'}; name another --out\n"


def test_an_export_replaces_an_older_one_whole(flex: fd.FlexiDiT, exported: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(exported, tmp_path / "out")
    section = Export(platforms=("cpu",), pairs=(4, "4+none"), tables=({"solver": "ddim", "steps": 3},))
    assert write(flex, folder, section) == ["4+none"]
    assert sorted(file.name for file in folder.iterdir()) == [
        "manifest.json", "modulations_4.bin", "noise.bin", "serve_exported.py", "step_4_none.bin", "tables.npz",
        "weights.npz",
    ]  # fmt: skip
    assert list(np.load(folder / "tables.npz")) == ["ddim_3"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_tables_those_of_the_sample_section(flex: fd.FlexiDiT) -> None:
    assert list(Export().solver_tables(flex.process, fd.SampleSpec(solver="ddim", steps=7, seed=3))) == ["ddim_7"]
    assert list(Export().solver_tables(flex.process, fd.SampleSpec(solver=SA, steps=7))) == ["sa_solver_7"]


def test_pairs() -> None:
    assert runnable_pairs([P2, P4]) == [(P2, None), (P4, None), (P2, P2), (P2, P4), (P4, P4)]
    assert len(runnable_pairs([P2, P4, PT])) == 9
    assert parse_pairs((2, "2+2x4x4", "4", "4+none"), [P2, P4, PT]) == [(P2, None), (P2, PT), (P4, None)]
