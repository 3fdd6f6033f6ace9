"""Run by `test_meshes.py` in a process of eight CPU devices: the same steps on several meshes, as JSON."""

from __future__ import annotations

import json
import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from flexidit_jax.common.types import Array, Params
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.conditioning.condition import of_records
from flexidit_jax.models.dit import DiT
from flexidit_jax.training.optimizer import Ema
from flexidit_jax.training.sharding import made, make_mesh, placed, put_batch
from flexidit_jax.training.stages import Stage, build_stages
from flexidit_jax.training.state import TrainState, first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import UpdateCounts

#: mesh (None is one device) and accumulate
CASES = ((None, 1), ((8, 1, 1), 1), ((2, 4, 1), 1), ((2, 2, 2), 1), ((2, 4, 1), 2), ((2, 2, 2), 2))
ADAPTED = ((None, 1), ((2, 2, 2), 1))
STEPS, ADAPTED_STEPS, BATCH, LATENT = 20, 3, 16, (1, 12, 12, 4)
MOVES = re.compile(r" = (.*?) (all-gather|all-to-all|collective-permute)(?:-start)?\(")

model = build_dit(LATENT, {"name": "classes", "classes": 10}, width=32, depth=2, num_heads=4, unroll=2)
SHARED, ADAPTERS = (
    build_stages([{"patches": (2, 4), **words}], model.base_patch, {"name": "diffusion"})[0]
    for words in ({"steps": STEPS}, {"steps": ADAPTED_STEPS, "adapters": 4})
)
rng = np.random.default_rng(0)
plain = jax.tree.map(
    lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32), init(model, jax.random.key(0))
)
records = [(rng.normal(size=(BATCH, *LATENT)).astype(np.float32), rng.integers(0, 10, BATCH)) for _ in range(STEPS)]


#: one step of texts, whose null is frozen and split like what is trained
TEXTS = build_dit(
    LATENT, {"name": "text", "features": 16, "length": 5, "null_length": 2}, width=32, depth=2, num_heads=4, unroll=2,
    modulation="single", span=6.0,
)  # fmt: skip
TEXT_STAGE = build_stages([{"patches": (2, 4), "steps": 1}], TEXTS.base_patch, {"name": "diffusion"})[0]


def moved(program: str) -> list[str]:
    """Collectives that carry activations or latents: the only arrays with a side of 12 or a multiple of 9."""
    found = []
    for text, kind in (match.groups() for match in map(MOVES.search, program.splitlines()) if match):
        sides = [int(side) for shape in re.findall(r"\[([\d,]+)\]", text) for side in shape.split(",")]
        if any(side == 12 or side % 9 == 0 for side in sides):
            found.append(f"{kind} {text}")
    return found


def begun(plain: Params, stage: Stage, optimizer: optax.GradientTransformation) -> TrainState:
    """The first state, nothing trained in it zero and no two columns of a leaf alike."""

    def shaken(leaf: Array) -> Array:
        return leaf + 0.3 * jnp.sin(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape)

    state = first_state(plain, stage, optimizer)
    return state.replace(params=jax.tree.map(shaken, state.params))


def asked(label: np.ndarray) -> dict[str, np.ndarray]:
    """A batch of records of texts."""
    tokens = rng.normal(size=(BATCH, 5, 16)).astype(np.float32) * (1 + label[:, None, None])
    return {"tokens": tokens, "mask": np.arange(5) < 1 + label[:, None] % 5}


def run(
    stage: Stage, sizes: tuple[int, int, int] | None, accumulate: int, model: DiT = model, plain: Params = plain
) -> dict[str, object]:
    mesh = make_mesh(*sizes) if sizes else None
    optimizer, modes = optax.adamw(1e-3), stage.patches[1:] if stage.adapters else stage.patches
    begin = partial(begun, stage=stage, optimizer=optimizer)
    state = made(begin, mesh, placed(plain, mesh)) if mesh else jax.jit(begin)(plain)
    held = sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in jax.tree.leaves(state))
    put = partial(put_batch, mesh=mesh) if mesh else lambda batch: batch
    step = make_step(model, Process(), stage.loss, optimizer, Ema(), 0, None, mesh, accumulate)
    counts = UpdateCounts([stage], 0)
    logged, programs, where = [], {}, [leaf.sharding for leaf in jax.tree.leaves(state)]
    for number, (x, label) in enumerate(records[: stage.steps]):
        record = {"label": label} if "label" in model.conditioner.fields else asked(label)
        cond, patch = of_records(model.conditioner, record), modes[number % len(modes)]
        words, counted = (put({"x": x})["x"], put(cond), number), counts.next(patch)
        if patch not in programs:
            programs[patch] = step.lower(state, *words, patch, counted).compile()
        state, metrics = programs[patch](state, *words, counted)
        logged.append({name: np.asarray(value).tolist() for name, value in metrics.items()})
    stayed = all(a.sharding.is_equivalent_to(b, a.ndim) for a, b in zip(jax.tree.leaves(state), where, strict=True))
    return {
        "metrics": logged,
        "held": held,
        "stayed": stayed,
        "moved": [line for program in programs.values() for line in moved(program.as_text())],
    }


if __name__ == "__main__":
    shared = {str(case): run(SHARED, *case) for case in CASES}
    adapters = {str(case): run(ADAPTERS, *case) for case in ADAPTED}
    read = init(TEXTS, jax.random.key(0))
    texts = {}
    for case in ADAPTED:
        rng = np.random.default_rng(1)
        texts[str(case)] = run(TEXT_STAGE, *case, TEXTS, read)
    print(json.dumps({"shared": shared, "adapters": adapters, "texts": texts}))
