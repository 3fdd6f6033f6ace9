"""The newest whole step is used; a run sets damaged ones aside, a reader touches nothing, nobody deletes."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.runs import recovery as newest
from flexidit_jax.runs.checksums import CHECKSUMS, record
from flexidit_jax.runs.recovery import keep_linked, settle, step_to_read, sweep


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with steps 4, 8 and 12."""
    for number in (4, 8, 12):
        add(tmp_path, number)
    return tmp_path


def add(run: Path, number: int) -> Path:
    step = run / "checkpoints" / str(number)
    for name in ("ema", "params", "meta"):
        (step / name).mkdir(parents=True)
        (step / name / "metadata").write_text(json.dumps({"step": number, "checksums": CHECKSUMS}))
    record(step)
    return step


def damage(step: Path, part: str = "ema") -> None:
    (step / part / "metadata").write_text((step / part / "metadata").read_text().replace("step", "stop"))


def content(run: Path) -> dict[str, bytes]:
    return {str(file.relative_to(run)): file.read_bytes() for file in run.rglob("*") if file.is_file()}


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_nothing_is_said_or_moved_when_nothing_is_wrong(run: Path) -> None:
    said: list[str] = []
    before = content(run)
    assert settle(run, said.append) == run / "checkpoints" / "12"
    assert said == []
    assert content(run) == before
    assert settle(run / "nowhere", said.append) is None


def test_damaged_steps_are_set_aside_and_named(run: Path) -> None:
    said: list[str] = []
    for number in ("8", "12"):
        damage(run / "checkpoints" / number)
    before = content(run)
    assert settle(run, said.append) == run / "checkpoints" / "4"
    assert names(run) == ["4", "damaged-12", "damaged-8"]
    folder = run / "checkpoints"
    assert said == [
        f"checkpoint {folder / number} is damaged (ema/metadata is not what was written):"
        f" set aside as damaged-{number}, going on from step 4"
        for number in ("12", "8")
    ]
    assert sorted(content(run).values()) == sorted(before.values())


def test_the_same_step_is_damaged_again(run: Path) -> None:
    for names_then in (["damaged-12"], ["damaged-12", "damaged-12.2"], ["damaged-12", "damaged-12.2", "damaged-12.3"]):
        damage(run / "checkpoints" / "12")
        assert settle(run, print).name == "8"
        assert names(run) == sorted(["4", "8", *names_then])
        add(run, 12)


def test_an_older_damaged_step_is_left_where_it_is(run: Path) -> None:
    damage(run / "checkpoints" / "8")
    assert settle(run, print).name == "12"
    assert names(run) == ["12", "4", "8"]


def test_where_every_step_is_damaged_all_stay(run: Path) -> None:
    for number in ("4", "8", "12"):
        damage(run / "checkpoints" / number)
    before = content(run)
    reason = "(ema/metadata is not what was written)"
    message = (
        f"every checkpoint in {run / 'checkpoints'} is damaged: step 12 {reason}, step 8 {reason}, step 4 {reason};"
        " all stay as they are: put a good copy there, or name another --workdir"
    )
    for use in (lambda: settle(run, print), lambda: step_to_read(run, ("ema",))):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value) == message
    assert content(run) == before


def test_a_reader_uses_the_step_before_and_renames_nothing(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(run / "checkpoints" / "12")
    before = content(run)
    assert step_to_read(run, ("ema", "meta")) == run / "checkpoints" / "8"
    assert capsys.readouterr().err == (
        f"checkpoint {run / 'checkpoints' / '12'} is damaged (ema/metadata is not what was written): reading step 8\n"
    )
    assert step_to_read(run, ("params", "meta")) == run / "checkpoints" / "12"  # what it reads is whole
    assert capsys.readouterr().err == ""
    assert content(run) == before


@pytest.mark.parametrize("how", ["damaged", "meta gone"])
def test_a_damaged_step_asked_for_by_name_is_refused(run: Path, how: str) -> None:
    step = run / "checkpoints" / "12"
    damage(step) if how == "damaged" else shutil.rmtree(step / "meta")
    with pytest.raises(UserError, match=rf"^checkpoint {step} is damaged or incomplete \(.*\); move that folder away"):
        step_to_read(step, ("ema", "meta"))
    assert step_to_read(step.with_name("8"), ("ema", "meta")) == step.with_name("8")


def test_a_step_of_an_earlier_version_is_used_and_said_to_be_unchecked(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = run / "checkpoints" / "12"
    (step / CHECKSUMS).unlink()
    (step / "meta/metadata").write_text("{}")
    line = f"checkpoint {step} was saved by an earlier version, without checksums: it is used unchecked"
    said: list[str] = []
    assert settle(run, said.append) == step
    assert said == [line]
    for path in (run, step):
        assert step_to_read(path, ("ema",)) == step
        assert capsys.readouterr().err == line + "\n"


def test_stale_temporary_folders_are_swept_up_and_nothing_else(run: Path) -> None:
    folder = run / "checkpoints"
    damage(folder / "12")
    settle(run, print)
    for name in ("kept-4", "kept-best.tmp", "kept-4.tmp.mine", "notes.tmp"):
        shutil.copytree(folder / "4", folder / name)
    before = content(run)
    for name in ("16.orbax-checkpoint-tmp", "20.orbax-checkpoint-tmp-1699999999", "kept-8.tmp"):
        shutil.copytree(folder / "8", folder / name)
    sweep(folder)
    assert content(run) == before
    sweep(run / "nowhere")


def test_a_step_is_kept_by_links_or_copies_or_not_at_all(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run / "checkpoints"
    (folder / "kept-best").mkdir()  # by a user
    keep_linked(folder / "4", folder / "kept-4")
    assert os.path.samefile(folder / "4/ema/metadata", folder / "kept-4/ema/metadata")
    monkeypatch.setattr(newest, "os", SimpleNamespace(link=refuse))  # a file system without links
    keep_linked(folder / "8", folder / "kept-8")
    assert content(folder / "kept-8") == content(folder / "8")
    monkeypatch.setattr(newest.shutil, "copy2", refuse)
    with pytest.raises(UserError, match=rf"^cannot write to {folder}/kept-12.tmp/\S+ \(No space left on device\)$"):
        keep_linked(folder / "12", folder / "kept-12")
    assert names(run) == ["12", "4", "8", "kept-8", "kept-best"]


def refuse(*paths: str, **words: bool) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
