"""What the tensors of a Wan are called, there and back, and those of others of the family."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from flexidit_jax.convert.wan_names import in_diffusers, of_diffusers, of_repository

NAMES = json.loads((Path(__file__).parents[1] / "golden" / "wan_names.json").read_text())


def test_both_ways() -> None:
    assert {name: of_repository(name) for name in NAMES} == NAMES
    assert {theirs: of_diffusers(theirs) for theirs in NAMES.values()} == {
        theirs: ours for ours, theirs in NAMES.items()
    }


def test_layers_have_names_too() -> None:
    assert of_repository("blocks.29.attn2.to_out.0") == "blocks.29.cross_attn.o"
    assert of_diffusers("blocks.3.ffn.0") == "blocks.3.ffn.net.0.proj"
    assert of_diffusers("time_projection.1") == "condition_embedder.time_proj"


def test_what_is_neither_stays_as_it_is() -> None:
    for name in ("blocks.0.k_img.weight", "img_emb.proj.0.weight", "blocks.x.norm3.weight", "extra"):
        assert of_diffusers(name) == of_repository(name) == name


def test_tensors_are_read_when_they_are_asked_for() -> None:
    state = {"time_projection.1.weight": np.ones(2), "head.modulation": np.zeros(3)}
    found = in_diffusers(state)
    assert list(found) == ["condition_embedder.time_proj.weight", "scale_shift_table"]
    assert found["scale_shift_table"] is state["head.modulation"]
    assert in_diffusers({"head.modulation": 1}) == {"head.modulation": 1}  # of something else
