"""A model out of whatever holds one."""

from __future__ import annotations

from pathlib import Path

import pytest

import flexidit_jax as fd

GOLDEN = Path(__file__).parents[1] / "golden" / "dit_tiny.safetensors"


def test_a_base_is_read_only_where_adapters_want_one(
    dit: fd.FlexiDiT, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dit.export(tmp_path / "diffusers")
    dit.save(tmp_path / "saved")
    for holds_all in (GOLDEN, tmp_path / "diffusers", tmp_path / "saved"):
        assert fd.load(holds_all, base=tmp_path / "nowhere").patches == dit.patches
        assert capsys.readouterr().err == f"note: {holds_all} holds all of its weights; base= is not read\n"
    dit.flexify((2, 4), adapters=2).save(tmp_path / "adapters", adapters_only=True)
    with pytest.raises(fd.UserError, match=r"nowhere does not exist; give a run's folder"):
        fd.load(tmp_path / "adapters", base=tmp_path / "nowhere")
    for base in (dit, GOLDEN):
        assert fd.load(tmp_path / "adapters", base=base).patches == ((1, 2, 2), (1, 4, 4))


def test_the_network_reads_the_mode_that_was_published(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    flex.export(tmp_path / "weak.safetensors", patch=4)
    weak = fd.load(tmp_path / "weak.safetensors", num_heads=flex.model.num_heads)
    assert (weak.model.patch, weak.patches) == ((1, 4, 4), ((1, 4, 4),))
    assert fd.load(GOLDEN).model.patch == (1, 2, 2)


def test_what_is_neither_a_path_nor_a_name_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(fd.UserError, match=r"is an address; give a path, or a model of the hub as hf:owner/model$"):
        fd.load("https://huggingface.co/owner/model")
    monkeypatch.setattr(Path, "is_dir", lambda self: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
    with pytest.raises(fd.UserError, match=r"cannot be read \(Permission denied\)$"):
        fd.load(tmp_path)
