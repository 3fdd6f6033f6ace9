"""Run by `test_token_meshes.py` in a process of eight CPU devices: tokens over a mesh that does not divide the heads.

Prints as JSON, by what was computed, how far several devices are from one, over the largest value, and what was
gathered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flexidit_jax.common import axes
from flexidit_jax.common.types import Array
from flexidit_jax.diffusion.flow import Process
from flexidit_jax.models import layers
from flexidit_jax.models.attention.backend import attend
from flexidit_jax.models.attention.seen import Seen
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.layers import Mlp
from flexidit_jax.training.optimizer import Ema
from flexidit_jax.training.sharding import made, make_mesh, placed, put_batch
from flexidit_jax.training.stages import build_stages
from flexidit_jax.training.state import first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import UpdateCounts

#: 108 tokens of three heads, and 27 of the weak mode
LATENT, BATCH = (3, 12, 12, 4), 4
GATHERED = re.compile(r" = (.*?) (?:all-gather|all-to-all|collective-permute)(?:-start)?\(")


def model(mask: bool) -> Any:
    text = {"name": "text", "features": 16, "length": 7, "null_length": 1, "mask": mask}
    return build_dit(
        LATENT, text, patch=(1, 2, 2), width=48, depth=2, num_heads=3, modulation="single", positions="rope",
        qk_norm="rms", cross_norm=True, learn_variance=False, mlp_ratio=2.5, remat="full",
    )  # fmt: skip


rng = np.random.default_rng(0)
plain = jax.tree.map(
    lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32), init(model(False), jax.random.key(0))
)
x, t = rng.normal(size=(BATCH, *LATENT)).astype(np.float32), np.float32([1, 300, 600, 900])
tokens = rng.normal(size=(BATCH, 7, 16)).astype(np.float32)
cond = {"tokens": tokens, "null": np.arange(BATCH) == 1}
masked = {**cond, "mask": np.arange(7) < np.array([[3], [7], [1], [5]])}
q = rng.normal(size=(2, 27, 3, 8)).astype(np.float32)
#: a row of two sequences, and one of a sequence and padding
segments = np.int32([[0] * 13 + [1] * 14, [5] * 20 + [-1] * 7])


def network(mask: bool, kept: bool, params: Any, x: Array, t: Array, cond: Any) -> Array:
    one = model(mask)
    if kept:
        cond = one.apply({"params": params}, cond, False, method="kept")
    return one.apply({"params": params}, x, t, cond).output


def packed(params: Any, q: Array, t: Array, cond: Any) -> Array:
    """Attention of packed rows, and its gradient."""
    numbers = Seen(jnp.abs(segments), segments)
    return jax.value_and_grad(lambda q: jnp.square(attend("xla", q, q[:, ::-1], 2 * q, numbers)).sum())(q)[1]


CASES = {
    "text": ((1, 1, 8), partial(network, False, False), x, cond),
    "masked text, kept": ((2, 1, 4), partial(network, True, True), x, masked),
    "packed rows": ((2, 1, 4), packed, q, cond),
}


def far(ours: Any, theirs: Any) -> float:
    """The largest difference over the largest value."""
    ours, theirs = (list(map(np.asarray, jax.tree.leaves(tree))) for tree in (ours, theirs))
    assert [leaf.shape for leaf in ours] == [leaf.shape for leaf in theirs]
    most = max(np.abs(leaf).max() for leaf in theirs)
    return float(max(np.abs(a - b).max() for a, b in zip(ours, theirs, strict=True)) / most)


def gathered(text: str) -> list[int]:
    """Numbers of elements of what is gathered, a loop over blocks once."""
    shapes = (shape for found in GATHERED.findall(text) for shape in re.findall(r"\[([\d,]+)\]", found))
    return sorted(int(np.prod([int(side) for side in shape.split(",")])) for shape in shapes)


def compared(sizes: tuple[int, int, int], function: Callable[..., Any], x: Array, cond: Any) -> dict[str, Any]:
    mesh = make_mesh(*sizes)

    def run(*args: Any) -> Any:
        with axes.using(mesh):
            return function(*args)

    put = put_batch({"x": x, **cond}, mesh)
    args = placed(plain, mesh), put.pop("x"), t, put
    program = jax.jit(run).lower(*args).compile()
    theirs = jax.jit(function)(plain, x, t, cond)
    text = program.as_text()
    return {"far": far(program(*args), theirs), "gathered": gathered(text), "whole": "f32[4,108,48]" in text}


def stepped(sizes: tuple[int, int, int] | None) -> Any:
    """What is trained after a step of adapters, by distillation."""
    network, mesh = model(False), make_mesh(*sizes) if sizes else None
    section = {"patches": ((1, 2, 2), (1, 4, 4)), "steps": 1, "adapters": 3}
    [stage] = build_stages([section], network.base_patch, {"name": "distillation"})
    optimizer = optax.sgd(1.0)
    begin = partial(first_state, stage=stage, optimizer=optimizer)
    state = made(begin, mesh, placed(plain, mesh)) if mesh else jax.jit(begin)(plain)
    before = jax.device_get(state.params)
    batch = {"x": x, **cond}
    batch = put_batch(batch, mesh) if mesh else batch
    step = make_step(network, Process(), stage.loss, optimizer, Ema(), 0, None, mesh, 1)
    state, metrics = step(state, batch.pop("x"), batch, 0, (1, 4, 4), UpdateCounts([stage], 0).next((1, 4, 4)))
    moved = jax.tree.map(lambda new, old: np.asarray(new) - old, state.params, before)
    return moved, np.asarray(metrics["loss"])


def in_pieces() -> dict[str, Any]:
    """An MLP of records over eight devices, whose tokens come in pieces: no record is another device's."""
    layers.MOST_HIDDEN = 4 * 9 * 20
    x, mlp = rng.normal(size=(8, 33, 16)).astype(np.float32), Mlp(16, 20, jnp.dtype("float32"))
    params, mesh = mlp.init(jax.random.key(0), x), make_mesh(8, 1, 1)

    def run(x: Array) -> Array:
        with axes.using(mesh):
            return mlp.apply(params, x)

    put = put_batch({"x": x}, mesh)["x"]
    program = jax.jit(run).lower(put).compile()
    return {"far": far(program(put), mlp.apply(params, x)), "gathered": gathered(program.as_text())}


if __name__ == "__main__":
    out = {name: compared(*case) for name, case in CASES.items()}
    (ours, our_loss), (theirs, loss) = stepped((1, 2, 4)), stepped(None)
    out["a step"] = {"far": far(ours, theirs), "loss": far(our_loss, loss)}
    out["pieces"] = in_pieces()
    print(json.dumps(out))
