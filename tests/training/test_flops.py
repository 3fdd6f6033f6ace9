"""FLOPs of training, against XLA's own count."""

from __future__ import annotations

import jax
import pytest

from flexidit_jax.common.trees import merge
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.flexify import at, flexify, split_frozen
from flexidit_jax.training.flops import training_flops
from flexidit_jax.training.losses import diffusion, distillation
from flexidit_jax.training.stages import Stage

P2, P4 = (1, 2, 2), (1, 4, 4)


@pytest.mark.parametrize(
    ("rank", "loss"), [(None, diffusion.Loss()), (8, diffusion.Loss()), (8, distillation.Loss())], ids=str
)
def test_training_against_xla(rank: int | None, loss: diffusion.Loss | distillation.Loss) -> None:
    """Forward and backward of a weak mode: every weight trained, or adapters on frozen ones, taught or not.

    XLA also counts the resizing of kernels, and skips the gradient of the input; both are small here. Blocks are
    unrolled, since it counts a scanned body once.
    """
    conditioner = {"name": "classes", "classes": 3}
    model = build_dit((1, 32, 32, 4), conditioner, width=512, depth=2, num_heads=2, unroll=2)
    shapes = jax.eval_shape(lambda: flexify(init(model, jax.random.key(0)), [P2, P4], rank))
    trained, frozen = split_frozen(shapes)

    def squared(trained, frozen, x, t, cond):
        stored = merge(frozen, trained)
        out = model.at(P4).apply({"params": at(stored, P4)}, x, t, cond).output
        if loss.asks_teacher:
            out -= model.apply({"params": at(stored, P2)}, x, t, cond).output
        return (out**2).sum()

    x, t = model.example(1)
    lowered = jax.jit(jax.grad(squared)).lower(trained, frozen, x, t, model.conditioner.parse([0]))
    stage = Stage(patches=(P2, P4), steps=1, adapters=rank, loss=loss)
    ratio = lowered.cost_analysis()["flops"] / training_flops(model, stage, P4)
    assert 0.99 <= ratio < 1.03, ratio


@pytest.mark.parametrize(
    ("rank", "loss", "times"), [(None, diffusion.Loss(), 3), (8, diffusion.Loss(), 1), (8, distillation.Loss(), 2)]
)
def test_nothing_goes_back_through_a_text_that_is_frozen(rank: int | None, loss: object, times: int) -> None:
    """Of its own layers: features of 100 channels more cost one forward pass more, a teacher's, and a backward one."""

    def flops(features: int) -> int:
        text = {"name": "text", "features": features, "length": 7}
        model = build_dit((1, 8, 8, 4), text, width=16, depth=2, num_heads=2)
        return training_flops(model, Stage(patches=(P2, P4), steps=1, adapters=rank, loss=loss), P4)

    assert flops(105) - flops(5) == times * 2 * 7 * 100 * 16
