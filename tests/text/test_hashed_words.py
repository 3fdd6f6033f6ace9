"""Words as hashed vectors: the same everywhere, another one at another place, and what is lost is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.text.hashed_words import Encoder, vector

PROMPT = "a bold three left of a faint seven"


def test_a_vector_is_the_same_on_every_machine() -> None:
    """Written down: neither Python's salt of strings nor a generator of numpy is in it."""
    np.testing.assert_array_equal(
        vector(0, 2, "three", 4), np.float32([0.39218459, 1.6782931, -0.97149378, 0.82302117])
    )
    assert vector(0, 2, "three", 4).dtype == np.float32
    np.testing.assert_array_equal(vector(0, 2, "three", 8)[:4], vector(0, 2, "three", 4))


def test_vectors_have_unit_variance_and_differ_by_word_place_and_seed() -> None:
    some = np.stack([vector(0, place, str(word), 64) for place in range(8) for word in range(50)])
    assert abs(some.mean()) < 0.02 and some.var() == pytest.approx(1, abs=0.02)
    assert np.abs(some).max() <= np.float32(3**0.5)
    alike = some @ some.T / 64
    assert np.abs(alike - np.diag(np.diag(alike))).max() < 0.75  # of nearly 80,000 pairs
    assert not np.array_equal(vector(0, 0, "a", 64), vector(1, 0, "a", 64))
    assert not np.array_equal(vector(1, 10, "a", 64), vector(11, 0, "a", 64))


def test_a_token_is_its_word_at_its_place() -> None:
    encoder = Encoder(length=10, width=16, seed=3)
    found = encoder.encode([PROMPT, "A  bold, THREE!", ""])
    words = PROMPT.split()
    assert found["tokens"].shape == (3, 10, 16) and found["tokens"].dtype == np.float32
    np.testing.assert_array_equal(found["tokens"][0, :8], [vector(3, i, word, 16) for i, word in enumerate(words)])
    np.testing.assert_array_equal(found["mask"].sum(1), [9, 4, 1])
    assert all((np.diff(mask.astype(int)) <= 0).all() for mask in found["mask"])
    np.testing.assert_array_equal(found["tokens"][1, :3], found["tokens"][0, :3])  # case and signs tell nothing
    for row, place in ((0, 8), (1, 3), (2, 0)):
        np.testing.assert_array_equal(found["tokens"][row, place], vector(3, place, "", 16))
    assert (found["tokens"][~found["mask"]] == 0).all()


def test_places_without_text_are_filled_where_it_is_asked_for() -> None:
    found = Encoder(length=4, width=8).encode(["one", ""], padded=True)
    np.testing.assert_array_equal(found["tokens"][0, 1:], [vector(0, place, "", 8) for place in (1, 2, 3)])
    np.testing.assert_array_equal(found["tokens"][1, 1:], found["tokens"][0, 1:])
    np.testing.assert_array_equal(found["mask"].sum(1), [2, 1])


def test_words_that_are_lost_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder(length=5, width=8)
    found = encoder.encode(["a bold three left of a one", "a bold three"])
    whole = Encoder(length=9, width=8).encode(["a bold three left"])
    np.testing.assert_array_equal(found["tokens"][0], whole["tokens"][0, :5])  # the start, and an end
    assert capsys.readouterr().err == (
        "note: more than 4 words, so the last words are not read: 'of a one' of 'a bold three left of a one'\n"
    )


def test_what_tokens_depend_on() -> None:
    known = Encoder(length=9).fingerprint()
    assert known == {"encoder": "hashed_words of seed 0", "length": 9, "clean": r"\w+"}
    assert json.loads(json.dumps(known)) == known
    assert Encoder(length=9, seed=1).fingerprint() != known != Encoder(length=8).fingerprint()
    encoder = Encoder(length=9, width=16, seed=2)
    assert build.part("flexidit_jax.text", "Encoder", build.describe(encoder), "text") == encoder
    encoder.free()  # there is nothing, and it may be used on
    encoder.encode([""])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"width": 0}, "text.width must be positive, got 0"),
        ({"length": 0}, "text.length must be positive, got 0"),
        ({"seed": -1}, "text.seed must be a whole number, 0 or more, got -1"),
        ({"seed": 0.5}, "text.seed must be a whole number, 0 or more, got 0.5"),
        ({"seed": True}, "text.seed must be a whole number, 0 or more, got True"),
    ],
)
def test_encoders_that_cannot_be(words: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Encoder(**words)
    assert str(caught.value) == message


def test_what_it_does_not_read() -> None:
    for prompts in ("a cat", [], [3]):
        with pytest.raises(UserError, match=r"^prompts must be a list of texts, and at least one$"):
            Encoder(length=4).encode(prompts)
    with pytest.raises(UserError, match=r"^text\.length is open, and no model is there to say it;"):
        Encoder().encode(["a"])
    Encoder().check()
    Encoder().check(64)
    with pytest.raises(UserError) as caught:
        Encoder().check(4096)
    assert str(caught.value) == (
        "text.width=64 makes features of 64 channels, and the model reads 4096; set it to that of the encoder that the"
        " model was trained with"
    )
