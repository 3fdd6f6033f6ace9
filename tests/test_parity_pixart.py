"""Parity with PixArt, against stored tensors (tests/golden, float32, random weights)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

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
    """Micro-conditions are those of the call, which names its own."""
    out = case.flex.predict(case["x_b"], case["t"], case.cond)
    assert np.abs(np.concatenate(out, axis=-1) - case["out_b"]).max() < TOLERANCE
    assert out.output.shape == case["x_b"].shape


def test_a_condition_without_a_mask_is_all_tokens(case: Case) -> None:
    asked = {key: value for key, value in case.cond.items() if key != "mask"}
    out = case.flex.predict(case["x"], case["t"], {**asked, "null": np.zeros(3, bool)})
    assert np.abs(np.concatenate(out, axis=-1) - case["out_nomask"]).max() < TOLERANCE


@pytest.mark.parametrize("case", ["pixart_tiny"], indirect=True)
def test_a_guided_step_is_the_golden_one(case: Case) -> None:
    """One step of DDIM from the golden x: x_0 of the guided eps."""
    flex, (t,) = with_null(case.flex, case["null"], "caption"), case.flex.process.chain(1).t
    bar, row = case.flex.process.chain(1).alpha_bar[0], int(np.argmax(case["t"]))
    assert t == case["t"][row]
    noise, cond = case["x"][row : row + 1], {key: value[row : row + 1] for key, value in case.cond.items()}
    words = {"steps": 1, "solver": "ddim", "decode": False, "progress": False, "noise": noise}
    ours = flex.sample(cond, guidance=float(case["guidance"]), **words)
    eps = case["guided"][row : row + 1, ..., :4]
    np.testing.assert_allclose(ours * np.sqrt(bar), noise - np.sqrt(1 - bar) * eps, rtol=0, atol=TOLERANCE * 5)
