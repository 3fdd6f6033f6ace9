"""Parity with PixArt, against stored tensors (tests/golden, float32, random weights)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexidit_jax as fd

GOLDEN = Path(__file__).parent / "golden"
#: of outputs, whose spread is about 1
TOLERANCE = 5e-5
MICRO = ("resolution", "aspect_ratio")


class Case:
    """A golden model with its values, pictures as [B, H, W, C]."""

    def __init__(self, name: str) -> None:
        self.flex = fd.load(GOLDEN / f"{name}.safetensors")
        values = np.load(GOLDEN / f"{name}.npz")
        self.values = {key: np.moveaxis(a, 1, -1) if a.ndim == 4 else a for key, a in values.items()}
        self.cond = {"tokens": self["text"], "mask": self["mask"]}
        self.cond |= {key: self[key] for key in MICRO if key in self.values}

    def __getitem__(self, key: str) -> np.ndarray:
        return self.values[key]

    def off(self, name: str, t: np.ndarray | None = None, flex: fd.FlexiDiT | None = None, **cond: np.ndarray) -> float:
        """How far eps and v are from `name`, at most."""
        out = (flex or self.flex).predict(self["x"], self["t"] if t is None else t, self.cond | cond)
        return float(np.abs(np.concatenate(out, axis=-1) - self[name]).max())


@pytest.fixture(scope="module", params=["pixart_tiny", "pixart_micro_tiny"])
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def with_null(flex: fd.FlexiDiT, null: np.ndarray, mask: str) -> fd.FlexiDiT:
    """The same model with features of no text."""
    conditioner = flex.model.conditioner.clone(length=10, null_length=len(null), null_mask=mask)
    trunk = flex.params["trunk"]
    trunk = {**trunk, "conditioner": {**trunk["conditioner"], "null": null}}
    return replace(flex, model=flex.model.clone(conditioner=conditioner), params={**flex.params, "trunk": trunk})


def test_forward(case: Case) -> None:
    assert case.off("out") < TOLERANCE
    assert case.off("out_fractional", t=case["t_fractional"]) < TOLERANCE
    assert case.off("out_nomask", mask=np.ones((3, 10), bool)) < TOLERANCE
    assert case.off("out_nomask") > 0.1


@pytest.mark.parametrize("case", ["pixart_tiny"], indirect=True)
def test_no_text_has_the_mask_of_a_caption_or_its_own(case: Case) -> None:
    none = np.ones(3, bool)
    for mask, count, name in (("caption", 10, "null_caption_mask"), ("own", 10, "null_all"), ("own", 1, "null_one")):
        flex = with_null(case.flex, case["null"][:count], mask)
        assert case.off(name, flex=flex, null=none) < TOLERANCE, name
        assert case.off("out", flex=flex) < TOLERANCE


def test_a_size_of_any_shape_has_positions_of_its_own(case: Case) -> None:
    height, width = case["x_b"].shape[1:3]
    flex, cond = case.flex, {**case.cond, "mask": case["mask"] != 0, "null": np.zeros(3, bool)}
    model = flex.model.clone(latent=(1, height, width, 4))
    params = fd.api.at(flex.params, flex.patches[0])
    out = jax.jit(model.apply)({"params": params}, case["x_b"][:, None], jnp.asarray(case["t"]), cond)
    assert np.abs(np.concatenate(out, axis=-1)[:, 0] - case["out_b"]).max() < TOLERANCE
