"""Who sees whom, whatever computes it: what is no number, and a query that sees nothing."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.models.attention.backend import attend
from flexidit_jax.models.attention.seen import Seen

#: two sequences of three, and one key of padding
APART = Seen(np.array([[0, 0, 0, 1, 1, 1]], np.int32), np.array([[0, 0, 0, 1, 1, 1, -1]], np.int32))


def inputs() -> list[np.ndarray]:
    """q [2, 6, 2, 4], k and v [2, 7, 2, 4]."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(2, n, 2, 4)).astype(np.float32) for n in (6, 7, 7)]


def test_pairs() -> None:
    seen = Seen(np.array([[0, 1, 7]], np.int32), np.array([[1, 0, 0, -1], [7, 7, -1, -1]], np.int32))
    wanted = [[[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]], [[0, 0, 0, 0], [0, 0, 0, 0], [1, 1, 0, 0]]]
    np.testing.assert_array_equal(seen.pairs(), np.array(wanted, bool))


def test_sequences_of_a_row_are_as_if_alone() -> None:
    q, k, v = inputs()
    together = attend("xla", q, k, v, APART)
    for part in (slice(0, 3), slice(3, 6)):
        alone = attend("xla", q[:, part], k[:, part], v[:, part])
        np.testing.assert_allclose(together[:, part], alone, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("of", [1, 2], ids=["k", "v"])
def test_what_is_no_number_is_lost_to_those_that_see_it(of: int, bad: float) -> None:
    arrays = inputs()
    sound = np.asarray(attend("xla", *arrays, APART))
    arrays[of][0, 4, 1, 2] = bad  # of the second sequence
    arrays[of][1, 6, 0, 0] = bad  # padding
    found = np.asarray(attend("xla", *arrays, APART))
    np.testing.assert_array_equal(found[0, :3], sound[0, :3])
    np.testing.assert_array_equal(found[1], sound[1])
    assert np.isnan(found[0, 3:]).all()


def test_who_sees_nothing_is_zero() -> None:
    q, k, v = inputs()
    seen = Seen(np.array([[0, 0, 0, 1, 1, 1]], np.int32), np.full((1, 7), -1, np.int32))
    seen.keys[0, :2] = 1
    found = np.asarray(attend("xla", q, k, v, seen))
    assert (found[:, :3] == 0).all() and (found[:, 3:] != 0).all()
    gradients = jax.grad(lambda *arrays: jnp.sum(attend("xla", *arrays, seen) ** 2), (0, 1, 2))(q, k, v)
    assert all(np.isfinite(each).all() for each in gradients)
    assert not np.any(gradients[0][:, :3]) and not np.any(gradients[2][:, 2:])
