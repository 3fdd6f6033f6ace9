"""Features of texts on disk: their own tokens alone, bound to what made them, each read by its number."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.data.text_features import TextFeatures, TextShards, digest

PROMPTS = ["a red apple", "zwei \u00c4pfel\nund mehr", "", "two dogs", "a"]
MADE = {"encoder": "0123", "length": 8, "clean": "lower", "width": 3}
FEATURES = [np.random.default_rng(i).normal(size=(i + 1, 3)).astype(np.float32) for i in range(5)]


def shards(folder: Path, **words: Any) -> TextShards:
    return TextShards(folder, **{"prompts": PROMPTS, "made": MADE, "dtype": "float32", "shard": 2} | words)


def write(folder: Path, **words: Any) -> TextShards:
    made = shards(folder, **words)
    with made.claimed():
        made.write_prompts()
        for shard in made.missing():
            made.write(shard, [FEATURES[i] for i in made.numbers(shard)])
    return made


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "features")
    return tmp_path / "features"


def test_what_is_read_is_what_was_kept(folder: Path, tmp_path: Path) -> None:
    kept = TextFeatures(folder)
    assert (len(kept), kept.prompts, kept.made) == (5, PROMPTS, MADE)
    for one, wanted in zip(kept, FEATURES, strict=True):
        np.testing.assert_array_equal(one, wanted)
    write(tmp_path / "half", dtype="float16")
    half = TextFeatures(tmp_path / "half")
    np.testing.assert_array_equal(half[4], FEATURES[4].astype(np.float16).astype(np.float32))
    assert half[4].dtype == np.float32


def test_of_each_its_own_tokens_take_place(folder: Path) -> None:
    made = shards(folder)
    sizes = [made.path(shard).stat().st_size for shard in made.all]
    values = [4 * sum(FEATURES[i].size for i in made.numbers(shard)) for shard in made.all]
    assert all(value < size < value + 2**18 for value, size in zip(values, sizes, strict=True))
    tokens = 7 + 8 + 2  # of two letters one, no more than there is room for
    assert made.size([0, 2]) == tokens * 3 * 4 + 3 * 128 + 2 * 2**18


def test_it_goes_on_where_it_was_stopped(folder: Path) -> None:
    made = shards(folder)
    made.path(1).unlink()
    with pytest.raises(UserError) as caught:
        TextFeatures(folder)
    assert str(caught.value) == (
        f"{folder} holds 2 of 3 files of features, {made.path(1)} is missing; the same command with --mode=encode makes"
        " them"
    )
    assert made.missing() == [1]
    write(folder)
    np.testing.assert_array_equal(TextFeatures(folder)[3], FEATURES[3])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"made": MADE | {"encoder": "4567"}}, "encoder is '0123' there, '4567' here"),
        ({"made": MADE | {"length": 9}}, "length is 8 there, 9 here"),
        ({"made": MADE | {"clean": "none"}}, "clean is 'lower' there, 'none' here"),
        ({"prompts": [*PROMPTS[:4], "b"]}, f"prompts is '{digest(PROMPTS)}' there, '{digest([*PROMPTS[:4], 'b'])}' "),
        ({"dtype": "float16"}, "dtype is 'float32' there, 'float16' here"),
    ],
)
def test_a_folder_is_bound_by_what_features_depend_on(folder: Path, words: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as caught:
        shards(folder, **words)
    assert str(caught.value).startswith(f"{folder} holds features made with other words: {says}")


def test_a_model_reads_those_of_its_own_encoder_alone(folder: Path) -> None:
    kept = TextFeatures(folder)
    kept.check(3, 8)
    kept.check(3, 8, {key: MADE[key] for key in ("encoder", "length", "clean")})
    for words, says in (
        ((4, 8), "width is 3 there, 4 here"),
        ((3, 9), "length is 8 there, 9 here"),
        ((3, 8, MADE | {"encoder": "4567"}), "encoder is '0123' there, '4567' here"),
        ((3, 8, MADE | {"clean": "none"}), "clean is 'lower' there, 'none' here"),
    ):
        with pytest.raises(UserError) as caught:
            kept.check(*words)
        assert str(caught.value) == (
            f"{folder} holds features of another text encoder: {says}; encode the prompts again, into another folder"
        )


def test_what_is_damaged_is_named(folder: Path, tmp_path: Path) -> None:
    file = shards(folder).path(2)
    content = bytearray(file.read_bytes())
    content[-len(content) // 2 :] = bytes(len(content) // 2)
    content[:64] = b"x" * 64
    file.write_bytes(bytes(content))
    with pytest.raises(UserError, match=rf"^{file} is damaged \(.*\); the same command with --mode=encode makes them"):
        TextFeatures(folder)[4]
    (folder / "prompts.jsonl").write_text(json.dumps("another") + "\n")
    with pytest.raises(UserError, match=r"prompts\.jsonl is not that of these features; encode into another folder$"):
        TextFeatures(folder)
    (folder / "prompts.jsonl").unlink()
    missing = r"\(prompts\.jsonl is missing\); --mode=encode makes some"
    with pytest.raises(UserError, match=rf"^{folder} holds no features of texts {missing}$"):
        TextFeatures(folder)
    (folder / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match=rf"^{folder} holds no features of texts that can be read \('encoder'\)$"):
        TextFeatures(folder)


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    made = shards(tmp_path / "features", dtype="float16")
    with made.claimed(), pytest.raises(UserError) as caught:
        made.write(1, [np.full((2, 3), 1e6), np.ones((1, 3))])
    assert str(caught.value) == "features of prompt 2 are not finite in float16; set encode.dtype=float32"
    assert not made.path(1).exists()
