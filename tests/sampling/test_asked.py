"""Pictures of texts: prompts in, an encoder that is gone before the first step, several pictures of each."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.sampling.sampler import Sampler
from flexidit_jax.text.t5 import T5, Encoder

WORDS = {"steps": 2, "decode": False, "progress": False}
PROMPTS = ["a red apple", "two dogs play"]


def test_prompts_are_their_features(texts: fd.FlexiDiT) -> None:
    features = texts.features([*PROMPTS, "blurry"])
    assert [one.shape[1] for one in features] == [32] * 3 and all(len(one) < 16 for one in features)
    drawn = texts.sample(PROMPTS, negative="blurry", budget=0.6, **WORDS)
    same = texts.sample(features[:2], negative=features[2], budget=0.6, **WORDS)
    np.testing.assert_array_equal(drawn, same)
    assert np.abs(drawn[0] - drawn[1]).max() > 0.1
    for other in (texts.sample(PROMPTS, budget=0.6, **WORDS), texts.sample([PROMPTS[1], None], **WORDS)):
        assert np.abs(other - drawn).max() > 1e-3
    padded = {"tokens": np.zeros((2, 16, 32), np.float32), "mask": np.zeros((2, 16), bool)}
    for row, one in enumerate(features[:2]):
        padded["tokens"][row, : len(one)], padded["mask"][row, : len(one)] = one, True
    np.testing.assert_array_equal(texts.sample(padded, negative="blurry", budget=0.6, **WORDS), drawn)


def test_several_pictures_of_each(texts: fd.FlexiDiT, flex: fd.FlexiDiT) -> None:
    drawn = texts.sample(PROMPTS, negative=["blurry", None], images_per_prompt=2, first=3, **WORDS)
    each = [prompt for prompt in PROMPTS for _ in range(2)]
    again = texts.sample(each, negative=["blurry", "blurry", None, None], first=3, **WORDS)
    np.testing.assert_array_equal(drawn, again)
    chain = texts.steps(PROMPTS, images_per_prompt=2, negative=["blurry", None], first=3, steps=2)
    np.testing.assert_array_equal([*chain][-1].x[:, 0], drawn)
    labels = {"steps": 2, "decode": False, "progress": False, "solver": "ddim"}
    np.testing.assert_array_equal(
        flex.sample([1, 2], images_per_prompt=2, **labels), flex.sample([1, 1, 2, 2], **labels)
    )


def test_the_encoder_is_gone_before_the_first_step(texts: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are live while it reads, and not when denoising begins."""
    seen: dict[str, int] = {}
    flex = dataclasses.replace(texts)  # nothing of it lies on the device yet

    def watch(owner: type, name: str, key: str) -> None:
        method = getattr(owner, name)

        def watched(*args: Any, **words: Any) -> Any:
            seen.setdefault(key, sum(array.nbytes for array in jax.live_arrays()))
            return method(*args, **words)

        monkeypatch.setattr(owner, name, watched)

    watch(Encoder, "check", "before")
    watch(T5, "__call__", "reading")
    watch(Sampler, "start", "denoising")
    flex.sample(PROMPTS, **WORDS)
    weights = (Path(__file__).parents[1] / "golden" / "t5_tiny.safetensors").stat().st_size
    assert seen["reading"] - seen["before"] > 0.9 * weights
    assert seen["denoising"] - seen["before"] < 0.1 * weights


def test_what_is_wrong_is_said_before_an_encoder_is_read(texts: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Encoder, "encode", None)
    for words, says in (
        ({"budget": 0.01}, r"^budget 0\.01 is below what patch 4 alone costs; "),
        ({"solver": "euler"}, r"^solver 'euler' does not suit the gaussian process; "),
        ({"images_per_prompt": 0}, r"^sample\.images_per_prompt must be positive, got 0$"),
        ({"images_per_prompt": 1.5}, r"^images_per_prompt must be int, got 1\.5$"),
        ({"decode": True}, r"^this model has no codec to decode its latents with; "),
    ):
        with pytest.raises(fd.UserError, match=says):
            texts.sample(PROMPTS, **{**WORDS, **words})
    bare = texts.model.clone(conditioner=texts.model.conditioner.clone(null_length=0, null_mask="own"))
    with pytest.raises(
        fd.UserError, match=r"^guidance: this model has nothing that stands for no text; .* a negative$"
    ):
        dataclasses.replace(texts, model=bare).sample(PROMPTS, **WORDS)


def test_an_encoder_and_a_model_that_do_not_fit(texts: fd.FlexiDiT, flex: fd.FlexiDiT) -> None:
    assert texts.text.length == 16  # which it left open
    assert dataclasses.replace(texts, text=dataclasses.replace(texts.text, length=8)).text.length == 8
    with pytest.raises(fd.UserError, match=r"^text\.length=17, and the model reads 16 tokens of a text$"):
        dataclasses.replace(texts, text=dataclasses.replace(texts.text, length=17))
    with pytest.raises(fd.UserError, match=r"^this model is not conditioned on texts; leave its text encoder out$"):
        dataclasses.replace(flex, text=texts.text)
    with pytest.raises(fd.UserError, match=r"^this model is not conditioned on texts, and has no features of prompts$"):
        flex.features(PROMPTS)
    with pytest.raises(fd.UserError, match=r"^this model has no text encoder to read prompts with; "):
        dataclasses.replace(texts, text=None).sample(PROMPTS, **WORDS)
    other = texts.model.clone(conditioner=texts.model.conditioner.clone(features=4096))
    with pytest.raises(fd.UserError, match=r" makes features of 32 channels, and the model reads 4096; set text\.path"):
        dataclasses.replace(texts, model=other).sample(PROMPTS, **WORDS)


def test_a_saved_model_knows_its_encoder(texts: fd.FlexiDiT, tmp_path: Path) -> None:
    texts.save(tmp_path / "model")
    again = fd.load(tmp_path / "model")
    assert again.text == texts.text
    np.testing.assert_array_equal(again.sample(PROMPTS, **WORDS), texts.sample(PROMPTS, **WORDS))
    dataclasses.replace(texts, text=None).save(tmp_path / "without")
    assert '"text":' not in (tmp_path / "without" / "config.json").read_text()
    assert fd.load(tmp_path / "without").text is None
