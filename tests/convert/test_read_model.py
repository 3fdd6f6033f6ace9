"""A model out of whatever holds one."""

from __future__ import annotations

from pathlib import Path

import pytest

import flexidit_jax as fd

GOLDEN = Path(__file__).parents[1] / "golden" / "dit_tiny.safetensors"


def test_a_base_is_read_only_where_adapters_want_one(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path / "diffusers")
    for holds_all in (GOLDEN, tmp_path / "diffusers"):
        assert fd.load(holds_all, base=tmp_path / "nowhere").patches == dit.patches
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
