"""What a caller says of a model: what agrees is fine, what contradicts is refused in one line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.convert.said import Said, apart

GOLDEN = Path(__file__).parents[1] / "golden"
PIXART, DIT = GOLDEN / "pixart_tiny.safetensors", GOLDEN / "dit_tiny.safetensors"


def test_what_agrees_is_fine() -> None:
    said = {"num_heads": 3, "input_size": 16, "interpolation_scale": 2, "length": 10, "null_mask": "own"}
    assert fd.load(PIXART, **said, null="none").model.conditioner.length == 10
    assert fd.load(DIT, input_size=8).model.latent == (1, 8, 8, 4)


@pytest.mark.parametrize(
    ("file", "said", "message"),
    [
        (PIXART, {"num_heads": 4}, "{} is a model of 3 heads, but num_heads=4; leave that out"),
        (PIXART, {"input_size": 32}, "{} is a model of latents of side 16, but input_size=32; leave that out"),
        (
            PIXART,
            {"interpolation_scale": 0.5},
            "{} is a model of interpolation scale 2, but interpolation_scale=0.5; leave that out",
        ),
        (DIT, {"interpolation_scale": 2}, "{} is no PixArt, but interpolation_scale=2; leave that out"),
        (DIT, {"length": 120}, "{} is no PixArt, but length=120; leave that out"),
        (DIT, {"null": "stored"}, "{} is no PixArt, but null='stored'; leave that out"),
        (DIT, {"null": "empty"}, "{} is no PixArt, but null='empty'; leave that out"),
        (DIT, {"null_mask": "own"}, "{} is no PixArt, but null_mask='own'; leave that out"),
        (PIXART, {"null": "kept"}, "no null 'kept'; did you mean 'empty'?"),
        (PIXART, {"null_mask": "owm"}, "no null_mask 'owm'; did you mean 'own'?"),
        (PIXART, {"length": 0}, "length must be positive, got 0"),
        (PIXART, {"length": "120"}, "length must be int or None, got '120'"),
        (PIXART, {"interpolation_scale": -1.0}, "interpolation_scale must be positive, got -1.0"),
    ],
)
def test_what_contradicts_is_refused(file: Path, said: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=rf"^{re.escape(message.format(file))}$"):
        fd.load(file, **said)


def test_a_length_that_the_null_tells_is_that() -> None:
    pytest.importorskip("torch")
    file = GOLDEN / "pixart_tiny.pth"
    assert fd.load(file, num_heads=3, length=10, null="stored", null_mask="caption").model.conditioner.length == 10
    with pytest.raises(UserError, match=r"is a model of texts of 10 tokens, but length=120; leave that out$"):
        fd.load(file, num_heads=3, length=120)
    assert fd.load(file, num_heads=3, length=120, null="none").model.conditioner.length == 120
    assert fd.load(file, num_heads=3, null_mask="own").model.conditioner.null_mask == "own"


def test_a_saved_model_without_a_null_holds_none_that_is_stored(tmp_path: Path) -> None:
    fd.load(PIXART).save(tmp_path)
    with pytest.raises(UserError, match=r"holds nothing that stands for no text; null='empty' reads an empty text$"):
        fd.load(tmp_path, null="stored")


def test_parts_apart_are_paths_or_sections() -> None:
    model = fd.load(PIXART).model
    assert apart(None, None, model) == {}
    section = {"name": "t5", "path": "b", "length": 7}
    found = apart(Path("a"), section, model)
    assert found == {"codec": {"name": "sd_vae", "scale": None, "path": "a"}, "text": section}
    assert apart(None, "b", model) == {"text": {"name": "t5", "path": "b"}}
    with pytest.raises(UserError, match=r"^text must be a path, got 3$"):
        apart(None, 3, model)


def test_parts_of_a_wan_are_its_own(wan_pipeline: Path) -> None:
    model = fd.load(wan_pipeline / "transformer").model
    sections = {"codec": {"name": "wan_vae", "path": "a"}, "text": {"name": "umt5", "path": "b"}}
    assert apart("a", Path("b"), model) == sections
    assert apart({"name": "identity"}, None, model) == {"codec": {"name": "identity"}}
    of_classes = model.clone(conditioner=fd.load(DIT).model.conditioner)
    assert apart("a", None, of_classes)["codec"]["name"] == "sd_vae"


def test_what_is_said_is_typed() -> None:
    assert Said.typed(3, 16.0, None, None, None, "own") == Said(3, 16, None, None, None, "own")
