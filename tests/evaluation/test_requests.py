"""What images are asked for: classes that depend on seed and number alone."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.requests import balanced_labels, labels_of


def test_classes_depend_on_seed_and_number_alone() -> None:
    numbers = np.arange(5000)
    labels = labels_of("uniform", 0, numbers, 10)
    np.testing.assert_array_equal(labels_of("uniform", 0, numbers[[4000, 7]], 10), labels[[4000, 7]])
    assert (labels_of("uniform", 1, numbers, 10) == labels).mean() == pytest.approx(0.1, abs=0.02)
    counts = np.bincount(labels, minlength=10)
    assert len(counts) == 10
    assert 0 < np.abs(counts - 500).max() < 5 * np.sqrt(5000 * 0.1 * 0.9)


def test_no_draw_of_noise_tells_the_class() -> None:
    """Noise of an image comes from the key of (seed, number, draw): 0 is x_T, k + 1 that of step k."""

    @jax.jit
    @jax.vmap
    def one(number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(3), number)
        return jax.vmap(lambda draw: jax.random.randint(jax.random.fold_in(key, draw), (), 0, 10))(np.arange(1001))

    labels = labels_of("uniform", 3, np.arange(300), 10)
    shares = (np.asarray(one(np.arange(300))) == labels[:, None]).mean(0)  # a tenth by chance
    assert shares.shape == (1001,) and shares.max() < 0.2


def test_balanced_classes_are_equally_many() -> None:
    numbers = np.arange(25)
    np.testing.assert_array_equal(np.bincount(labels_of("balanced", 0, numbers, 10)), [3] * 5 + [2] * 5)
    np.testing.assert_array_equal(
        labels_of("balanced", 0, numbers[13:], 10), labels_of("balanced", 9, numbers, 10)[13:]
    )


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_that_cannot_be_is_refused(seed: int) -> None:
    with pytest.raises(UserError, match=rf"seed must lie in 0..2\^32-1, got {seed}$"):
        labels_of("uniform", seed, np.arange(3), 10)


def test_balanced_labels_take_turns() -> None:
    np.testing.assert_array_equal(balanced_labels(7, 3), [0, 1, 2, 0, 1, 2, 0])
