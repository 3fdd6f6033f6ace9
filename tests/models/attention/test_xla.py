"""Attention by XLA against the formula in float64, and what a bfloat16 model keeps in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.models.attention.xla import attention

SHAPE = (2, 33, 3, 16)  # of 16 features a head the scale is 1/4, which rounds nothing


def inputs(dtype: type) -> list[np.ndarray]:
    """q, k and v; keys have a part in common, which takes about 60 from every score and changes no weight."""
    q, k, v = np.random.default_rng(0).normal(size=(3, *SHAPE))
    return [x.astype(dtype) for x in (q + 2, k - 8, v)]


def exact(q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
    q, k, v = (x.astype(np.float64) for x in (q, k, v))
    scores = np.einsum("bqhe,bkhe->bhqk", q, k) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.einsum("bhqk,bkhe->bqhe", weights / weights.sum(-1, keepdims=True), v)


@pytest.mark.parametrize("masked", [False, True])
def test_the_formula(masked: bool) -> None:
    segments = np.arange(SHAPE[1]) // 10  # three of ten tokens and one of three
    mask = (segments[:, None] == segments)[None, None] if masked else None
    q, k, v = inputs(np.float32)
    np.testing.assert_allclose(attention(q, k, v, mask, "xla"), exact(q, k, v, mask), atol=2e-5)


@pytest.mark.skipif(jax.default_backend() == "gpu", reason="there it may run")
def test_a_kernel_of_another_machine_is_refused() -> None:
    with pytest.raises(UserError, match=r"^model\.attention='cudnn' does not run here \(.+\); use 'xla'$"):
        attention(*inputs(ml_dtypes.bfloat16), None, "cudnn")


def test_scores_and_softmax_of_a_bfloat16_model_are_float32() -> None:
    """What is left is the rounding of weights and of the result; a score of -60 has quarters left in bfloat16."""
    q, k, v = inputs(ml_dtypes.bfloat16)
    ours = attention(q, k, v, None, "xla")
    assert ours.dtype == jnp.bfloat16
    error = np.abs(np.asarray(ours, np.float64) - exact(q, k, v)).mean()
    assert 1e-4 < error < 2e-3
