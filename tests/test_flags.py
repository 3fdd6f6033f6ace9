"""`--out` goes wherever a job writes, by the key that the job says; nothing of the run's folder is touched then."""

from __future__ import annotations

from pathlib import Path

import pytest

from flexidit_jax.main import _modes, _said, main

ROOT = Path(__file__).parents[1]
SMOKE = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"
PICTURES = {"grid.png", "sample.json", *(f"{i:06d}.png" for i in range(4))}
#: what each mode is asked beside, and what it then writes
WRITES = {
    "sample": (("sample.labels=0-2,7", "sample.files.images=True"), PICTURES),
    "evaluate": ((), {"evaluation.json"}),
    "generate": (("generate.num=2",), {"manifest.json", "samples.npz", "shards"}),
    "report": ((), {"report.json", "report.md", "quality_vs_compute.png", "samples.png"}),
    "search": (
        ("search.budgets=0.7", "search.guidance=1.0", "search.seeds=0"),
        {"search.json", "search.md", "gaps.png", "pareto.png"},
    ),
    "export": (
        ("export.pairs=('2',)", "export.platforms=('cpu',)"),
        {
            "manifest.json",
            "modulations_2.bin",
            "noise.bin",
            "serve_exported.py",
            "step_2_none.bin",
            "tables.npz",
            "weights.npz",
        },
    ),
    "compile": (("compile.programs=('sample',)",), {"cpu_1.json", "cpu_1.md"}),
    "convert": (("convert.layout=flexidit_jax",), {"config.json", "model.safetensors"}),
}


def test_every_job_but_training_takes_out() -> None:
    takers = {mode for mode in _modes() if "out" in _said(mode).flags}
    assert takers == {*_modes()} - {"train"} == {*WRITES, "encode", "decode", "reference"}


def written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.slow
@pytest.mark.parametrize("mode", WRITES)
def test_out(smoke_run: Path, tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before, (words, files) = written(smoke_run), WRITES[mode]
    config = SMOKE.replace("digits.py:smoke", "convert.py") if mode == "convert" else SMOKE
    more = [f"--config.{word}" for word in words]
    assert main([config, f"--mode={mode}", f"--workdir={smoke_run}", "--out=deep/there", *more]) == 0
    assert {path.name for path in (tmp_path / "deep" / "there").iterdir()} == files
    assert written(smoke_run) == before
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@pytest.mark.parametrize("mode", ["report", "search"])
def test_a_folder_of_something_else_is_not_replaced(
    smoke_run: Path, tmp_path: Path, mode: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "years").write_text("of work")
    assert main([SMOKE, f"--mode={mode}", f"--workdir={smoke_run}", f"--out={tmp_path}"]) == 2
    says = f"error: {tmp_path} is there and holds years, which no {mode} has; name another --out\n"
    assert capsys.readouterr().err == says
    assert [path.name for path in tmp_path.iterdir()] == ["years"]


def test_a_mode_that_does_not_take_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SMOKE, "--out=x"]) == 2
    takers = [
        "compile",
        "convert",
        "decode",
        "encode",
        "evaluate",
        "export",
        "generate",
        "reference",
        "report",
        "sample",
        "search",
    ]
    assert capsys.readouterr().err == f"error: --out is for --mode={' or '.join(takers)}, not for --mode=train\n"
