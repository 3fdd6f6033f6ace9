"""Samples that become no numbers on the way: they are named, and they alone are lost."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.sampling.engine import compiled_programs
from flexidit_jax.sampling.snapshot import NotFinite, Snapshot, gathered

QUIET = {"decode": False, "progress": False}
PLAIN = {"steps": 4, "schedule": "4:2,2:2", "guidance": 1.0}
LABELS = [1, 3, 2, 3, None]

Spoil = Callable[..., fd.FlexiDiT]


@pytest.fixture(scope="module")
def three(flex: fd.FlexiDiT, spoilt: Spoil) -> fd.FlexiDiT:
    """Class 3 is lost."""
    return spoilt(flex, 3)


def failure(model: fd.FlexiDiT, labels: Any = LABELS, **words: Any) -> NotFinite:
    with pytest.raises(NotFinite) as caught:
        model.sample(labels, **{**QUIET, **words})
    return caught.value


# ---------------------------------------------------------------- Who is lost, and when


@pytest.mark.parametrize("batch", [None, 2])
def test_the_others_are_what_they_are_without_it(flex: fd.FlexiDiT, three: fd.FlexiDiT, batch: int | None) -> None:
    error = failure(three, batch=batch, **PLAIN)
    assert isinstance(error, fd.UserError) and error.status == 1
    assert error.failed == (1, 3) and error.rows == ((1, 1, 4), (3, 1, 4))
    assert str(error) == (
        "2 of 5 samples became NaN or infinite: number 1 after 1 of 4 steps, number 3 after 1 of 4 steps; the others"
        " are sound; less guidance may help, else look for weights that are damaged or too large"
    )
    sound = flex.sample(LABELS, batch=batch, **PLAIN, **QUIET)
    np.testing.assert_array_equal(error.images[[0, 2, 4]], sound[[0, 2, 4]])
    assert error.images.shape == (5, 8, 8, 4) and not error.images[[1, 3]].any()


def test_in_the_middle_of_a_chain_and_by_the_samples_own_number(flex: fd.FlexiDiT, spoilt: Spoil) -> None:
    """The null condition is spoilt: it is read where it guides, and by the sample that has it."""
    words = {"steps": 5, "schedule": "2:5", "guidance": "1:3,2:2", "first": 40}
    error = failure(spoilt(flex, 10), [1, None, 2], **words)
    assert error.failed == (0, 1, 2) and error.rows == ((40, 4, 5), (41, 1, 5), (42, 4, 5))


def test_of_samples_with_steps_of_their_own(three: fd.FlexiDiT) -> None:
    specs = [fd.SampleSpec(steps=n, guidance=1.0) for n in (3, 6, 4, 5, 3)]
    error = failure(three, spec=specs)
    assert error.rows == ((1, 1, 6), (3, 1, 5))
    assert np.isfinite(error.images).all() and error.images[[0, 2, 4]].any((1, 2, 3)).all()


def test_images_are_decoded(three: fd.FlexiDiT, flex: fd.FlexiDiT) -> None:
    model, sound = (dataclasses.replace(each, codec=Codec()) for each in (three, flex))
    error = failure(model, decode=True, **PLAIN)
    assert error.images.dtype == np.uint8 and not error.images[[1, 3]].any()
    np.testing.assert_array_equal(error.images[[0, 2, 4]], sound.sample(LABELS, progress=False, **PLAIN)[[0, 2, 4]])


def test_clips_keep_their_axis(three: fd.FlexiDiT) -> None:
    noise = np.random.default_rng(0).normal(size=(5, 1, 8, 8, 4)).astype(np.float32)
    assert failure(three, noise=noise, **PLAIN).images.shape == noise.shape


@pytest.mark.parametrize("packing", ["packed", "joined", "padded", "separate"])
def test_rows_that_samples_share_keep_them_apart(flex: fd.FlexiDiT, three: fd.FlexiDiT, packing: str) -> None:
    """Packed, the short sequences of four samples lie in one row, where zero times NaN is NaN."""
    words = {"steps": 3, "schedule": "2:3", "guide": "4:3", "guidance": 1.5, "packing": packing}
    error = failure(three, **words)
    assert error.rows == ((1, 1, 3), (3, 1, 3))
    sound = flex.sample(LABELS, **words, **QUIET)
    np.testing.assert_array_equal(error.images[[0, 2, 4]], sound[[0, 2, 4]])


def test_no_program_more(flex: fd.FlexiDiT, three: fd.FlexiDiT) -> None:
    flex.sample(LABELS, **PLAIN, **QUIET)
    before = compiled_programs()
    failure(three, **PLAIN)
    assert compiled_programs() == before


def test_a_message_tells_the_first_few() -> None:
    error = NotFinite([(number, 2, 9) for number in range(10, 16)], 20, first=10)
    assert error.failed == tuple(range(6)) and error.images is None
    assert str(error).startswith("6 of 20 samples became NaN or infinite: number 10 after 2 of 9 steps, ")
    assert "number 13 after 2 of 9 steps, 2 more; the others" in str(error)


# ---------------------------------------------------------------- A step at a time


def test_steps_yield_all_there_is_and_then_say_it(three: fd.FlexiDiT) -> None:
    seen: list[Snapshot] = []
    with pytest.raises(NotFinite) as caught:
        seen.extend(three.steps(LABELS, batch=2, seed=5, **PLAIN))
    assert caught.value.failed == (1, 3) and caught.value.images is None
    assert len(seen) == 12  # three batches of four steps
    assert [list(snapshot.failed) for snapshot in seen] == [[1]] * 8 + [[]] * 4
    assert all(snapshot.seeds.tolist() == [5] * snapshot.count for snapshot in seen)
    blanked = seen[3].blanked()
    assert not blanked.x[1].any() and not blanked.x0[1].any()
    np.testing.assert_array_equal(blanked.x[0], seen[3].x[0])
    assert seen[-1].blanked() is seen[-1]


def test_who_steps_by_himself_is_told_by_the_snapshot(three: fd.FlexiDiT) -> None:
    state = three.sampler.start(LABELS, fd.SampleSpec(**PLAIN))
    assert state.snapshot.failed.tolist() == []
    assert list(three.sampler.run(state))[-1].failed.tolist() == [1, 3]


def test_what_is_lost_is_not_decoded(three: fd.FlexiDiT) -> None:
    model = dataclasses.replace(three, codec=Codec())
    snapshot = next(model.steps(LABELS, **PLAIN))
    with pytest.raises(fd.UserError, match=r"^latents must be finite, got nan at \[1, 0, 0, 0, 0\]$"):
        model.decode(snapshot.x0)
    assert model.decode(snapshot.blanked().x0).shape == (5, 8, 8, 4)


def test_gathered_leaves_out_what_fills_a_batch_up(flex: fd.FlexiDiT) -> None:
    chain = flex.sampler.batches(LABELS, fd.SampleSpec(**PLAIN), batch=2, progress=False)
    np.testing.assert_array_equal(gathered(chain, np.asarray)[:, 0], flex.sample(LABELS, batch=2, **PLAIN, **QUIET))
