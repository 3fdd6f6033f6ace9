"""UMT5: values of another implementation, both layouts of its names, how prompts are mended."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.text.t5 import load
from flexidit_jax.text.umt5 import Encoder, mended

GOLDEN = Path(__file__).parents[1] / "golden"
FILE = GOLDEN / "umt5_tiny.safetensors"


@pytest.fixture(scope="module")
def golden() -> dict[str, np.ndarray]:
    return dict(np.load(GOLDEN / "umt5_tiny.npz"))


def test_golden(golden: dict[str, np.ndarray]) -> None:
    encoder = load(FILE)
    assert encoder.model.own_tables and encoder.model.depth == 3
    tokens = np.asarray(encoder(golden["ids"], golden["mask"]))
    np.testing.assert_allclose(tokens * golden["mask"][..., None], golden["text"], atol=5e-5)


def test_the_names_of_the_repository(tmp_path: Path, golden: dict[str, np.ndarray]) -> None:
    """Its file is one by itself, without a config."""
    names = json.loads((GOLDEN / "umt5_names.json").read_text())
    state, _ = read_safetensors(FILE)
    assert state.keys() == names.keys()
    write_safetensors(tmp_path / "umt5.safetensors", {names[name]: array for name, array in state.items()}, {})
    other, same = load(tmp_path / "umt5.safetensors"), load(FILE)
    assert other.model == same.model
    found = other(golden["ids"], golden["mask"])
    np.testing.assert_array_equal(found, same(golden["ids"], golden["mask"]))


def test_prompts_are_mended() -> None:
    assert mended("  a &amp;lt;b&amp;gt;\n\n cat&#39;s  \u2019tail\u2019 ") == "a <b> cat's 'tail'"
    assert mended("<p> &amp;gt;") == "<p> >"  # twice, where ftfy leaves what may be HTML alone
    assert mended("sch\u00c3\u00b6n") == "sch\u00f6n"
    assert mended("\u7f8e\u3000\u4e3d") == "\u7f8e \u4e3d"
    assert [*Encoder.cleaning] == ["wan", "none"] and Encoder(clean=None).clean == "none"


def test_another_encoder_is_refused() -> None:
    file = GOLDEN / "t5_tiny.safetensors"
    with pytest.raises(UserError) as caught:
        Encoder(str(file), str(GOLDEN / "t5_tiny_spiece.model"), 16).check()
    assert str(caught.value) == (
        f"{file}: it is a T5 v1.1, all blocks of which have one table of biases; a UMT5 would do, such as"
        " google/umt5-xxl or the text_encoder folder of a Wan"
    )
    with pytest.raises(UserError, match=r"no text\.clean 'lower'"):
        Encoder(clean="lower")
