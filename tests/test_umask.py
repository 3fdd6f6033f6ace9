"""Whatever is written may be read by whom the user's umask lets read it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import flexidit_jax as fd
from flexidit_jax.main import main

ROOT = Path(__file__).parents[1]
DIGITS = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"


@pytest.fixture(params=[0o022, 0o027], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def private(folder: Path, umask: int) -> dict[str, str]:
    """What has other rights than a file or folder made just so."""
    paths = [folder, *folder.rglob("*")]
    rights = {path: path.stat().st_mode & 0o777 for path in paths if not path.is_symlink()}
    usual = {True: 0o777 & ~umask, False: 0o666 & ~umask}
    return {str(path): oct(found) for path, found in rights.items() if found != usual[path.is_dir()]}


@pytest.mark.parametrize("path", ["saved", "model.safetensors", "model.pt", "diffusers"])
def test_weights(flex: fd.FlexiDiT, tmp_path: Path, umask: int, path: str) -> None:
    if path == "model.pt":
        pytest.importorskip("torch")
    write: Callable[[Path], None] = flex.save if path == "saved" else flex.export
    write(tmp_path / "out" / path)
    assert private(tmp_path / "out", umask) == {}


#: a mode and what is asked of it beside
MODES = {
    "train": ("report.weak_last=()", "report.fewer_steps=()", "report.seeds=(0,)"),  # it draws the report
    "sample": ("sample.files.images=True", "sample.files.npz=True", "sample.preview_every=1", "sample.labels=0,1"),
    "evaluate": (),
    "generate": ("generate.num=3", "generate.shard=2"),
    "export": ("export.pairs=('2',)", "export.platforms=('cpu',)"),
    "search": ("search.budgets=0.7", "search.guidance=1.0", "search.seeds=0"),
}


@pytest.mark.slow
def test_what_jobs_write(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        for mode, words in MODES.items():
            more = [f"--config.{word}" for word in words]
            assert main([DIGITS, f"--mode={mode}", f"--workdir={tmp_path / 'run'}", *more]) == 0
    finally:
        os.umask(before)
    assert private(tmp_path / "run", 0o027) == {}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= {
        "checkpoints", "config.json", "evaluation.json", "exported", "generated", "report", "samples", "search",
    }  # fmt: skip


@pytest.mark.slow
def test_latents(tmp_path: Path, vae_folder: Path, umask: int) -> None:
    words = (
        "encode.shard=4 encode.batch=4 dataset.of.records=5 dataset.of.shape=(1,32,32,3) model.latent=(1,4,4,4)"
        f" codec.dtype=float32 codec.slice=2 codec.path={vae_folder} dataset.path={tmp_path / 'latents'}"
    )
    config = f"--config={ROOT / 'configs' / 'imagenet256_latents.py'}:smoke"
    more = [f"--config.{word}" for word in words.split()]
    assert main([config, "--mode=encode", f"--workdir={tmp_path / 'run'}", *more]) == 0
    assert private(tmp_path / "latents", umask) == {}
