"""The engine: one program per pair of modes, noise that belongs to the sample, formulas redone by hand."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.monitoring
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from flexidit_jax.api import FlexiDiT
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.compiler_options import OPTIONS
from flexidit_jax.common.types import Patch
from flexidit_jax.sampling import engine
from flexidit_jax.sampling.engine import compiled_programs
from flexidit_jax.sampling.noise import draws, normal

P2, P4 = (1, 2, 2), (1, 4, 4)
LABELS = [1, 2, 3]
SHAPE = (1, 8, 8, 4)
SOLVERS = ("ddpm", "ddim", "dpmpp_2m", "sa_solver")
#: the same sample in another batch, of the largest latent (XLA may sum in another order)
TOLERANCE = 1e-5


def starting_noise(seed: int, numbers: np.ndarray, shape: tuple[int, ...]) -> jax.Array:
    """x_T of the samples of these numbers, [B, *shape]."""
    return normal(*draws(seed, numbers, -1), shape)


def latents(model: FlexiDiT, labels: list[int | None] = LABELS, **words: object) -> np.ndarray:
    return model.sample(labels, **{"steps": 4, "guidance": 1.0, "decode": False, "progress": False, **words})


def assert_same_sample(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


class Counts(NamedTuple):
    """Programs compiled when this module began, after its unguided and after its guided chain."""

    before: int
    unguided: int
    guided: int


@pytest.fixture(scope="module")
def flex(flex: FlexiDiT) -> FlexiDiT:
    """The golden model with programs that no other module shares, whatever runs first."""
    return dataclasses.replace(flex, model=flex.model.clone(unroll=2))


@pytest.fixture(scope="module", autouse=True)
def counts(flex: FlexiDiT) -> Counts:
    """Runs every pair of modes once, before any test of this module does."""
    before = compiled_programs()
    latents(flex, schedule="4:2,2:2")  # (4, none), (2, none)
    unguided = compiled_programs()
    latents(flex, schedule="4:2,2:2", guide="4:3,2:1", guidance=1.5)  # (4, 4), (2, 4), (2, 2)
    return Counts(before, unguided, compiled_programs())


@pytest.fixture(scope="module")
def compilations() -> Callable[[], int]:
    """How many programs of any kind XLA has compiled since this was first asked for."""
    seen: list[str] = []

    def listen(event: str, seconds: float, **more: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seen.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return lambda: len(seen)


# ---------------------------------------------------------------- Programs


def test_one_program_per_pair(counts: Counts) -> None:
    assert counts.unguided == counts.before + 2 + 2  # and of each mode one for its tables
    assert counts.guided == counts.unguided + 3


def test_one_program_per_packing(flex: FlexiDiT, compilations: Callable[[], int]) -> None:
    """Only where two lengths meet."""
    programs = compiled_programs()
    words = {"guide": "4:3,2:1", "packing": "packed"}
    latents(flex, schedule="4:2,2:2", guidance=1.5, **words)  # (2, 4) packed; the others are there
    assert compiled_programs() == programs + 1
    everything = compilations()
    latents(flex, schedule="2/0", steps=9, guidance=2.5, packing="packed")
    latents(flex, schedule="2/0", steps=9, guidance=2.5, packing="separate")
    latents(flex, schedule="4:2,2:2", guidance=1.0, packing="joined")
    assert compiled_programs() == programs + 1
    assert compilations() == everything


def one_device_mesh() -> NamedSharding:
    return NamedSharding(jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,)), PartitionSpec())


@pytest.mark.parametrize("place", [lambda: jax.devices()[0], one_device_mesh])
def test_weights_that_were_put_somewhere_cost_no_program(flex: FlexiDiT, place: Callable[[], object]) -> None:
    """Those of a checkpoint are: every array of a step must be, or the first step is a program of its own."""
    somewhere = dataclasses.replace(flex, params=jax.device_put(flex.params, place()))
    programs = compiled_programs()
    drawn = latents(somewhere, [1, 2, 3, 4], schedule="4:2,2:2")  # ddpm: noise at every step but the last
    assert compiled_programs() == programs + 2 + 2
    assert_same_sample(drawn[:3], latents(flex, schedule="4:2,2:2"))


def test_budgets_steps_scales_and_solvers_compile_nothing(flex: FlexiDiT, compilations: Callable[[], int]) -> None:
    programs, everything = compiled_programs(), compilations()
    words = ("budget", "steps", "guidance", "solver")
    for values in itertools.product((0.3, 0.64, 1.0), (3, 5, 10), (1.0, 1.5, 4.0), SOLVERS):
        latents(flex, seed=values[1], first=3, **dict(zip(words, values)))
    latents(flex, schedule="4/1", steps=9, guidance=2.5)
    latents(flex, schedule="2:1,4:6", guide="4:7", steps=7, guidance=2.5)
    assert compiled_programs() == programs
    assert compilations() == everything
    jax.jit(lambda x: 3 * x + 7)(np.ones(5))
    assert compilations() > everything  # the counter does count


# ---------------------------------------------------------------- Noise belongs to the sample


def test_the_compiler_is_told_the_options_of_this_machine(flex: FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "_compiled", engine._compiled.__wrapped__)  # programs of others stay compiled
    monkeypatch.setitem(OPTIONS, jax.default_backend(), {"xla_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        latents(flex)


def test_starting_noise_is_the_samples_own() -> None:
    together = np.asarray(starting_noise(7, np.arange(3), SHAPE))
    for i in range(3):
        np.testing.assert_array_equal(starting_noise(7, np.array([i]), SHAPE)[0], together[i])
    np.testing.assert_array_equal(starting_noise(7, np.array([2, 2, 0]), SHAPE), together[[2, 2, 0]])
    assert len({row.tobytes() for row in together}) == 3
    assert not np.array_equal(starting_noise(8, np.arange(3), SHAPE), together)
    assert abs(together.mean()) < 0.1
    assert abs(together.std() - 1) < 0.1


def test_a_sample_is_the_same_in_any_batch(flex: FlexiDiT) -> None:
    together = latents(flex, seed=7)
    assert_same_sample(latents(flex, seed=7, batch=1), together)
    assert_same_sample(latents(flex, LABELS[2:], seed=7, first=2), together[2:])

    pixels = dataclasses.replace(flex, codec=Codec())
    words = {"steps": 4, "guidance": 1.0, "seed": 7, "progress": False}
    whole, single = (pixels.sample(LABELS, batch=batch, **words) for batch in (None, 1))
    assert whole.dtype == single.dtype == np.uint8
    assert np.abs(whole.astype(int) - single.astype(int)).max() <= 1


def test_first_continues_the_sequence(flex: FlexiDiT) -> None:
    words = {"schedule": "4:2,2:2", "seed": 3, "batch": 3}
    labels = [*LABELS, 0, 1, 2, 3]
    long = latents(flex, labels, **words)
    assert long.shape == (7, 8, 8, 4)
    np.testing.assert_array_equal(latents(flex, labels[:3], **words), long[:3])
    np.testing.assert_array_equal(latents(flex, labels[3:], first=3, **words), long[3:])
    assert not np.array_equal(latents(flex, labels[:3], first=3, **words), long[:3])
    # the last batch is filled up, which must not show
    np.testing.assert_array_equal(latents(flex, labels[4:], first=4, **words)[2], long[6])


def test_seeds_and_steps_draw_different_noise(flex: FlexiDiT) -> None:
    assert not np.array_equal(latents(flex, seed=0), latents(flex, seed=1))
    # with the same x_T at every call, only the noise of the steps is left to differ
    start = np.asarray(starting_noise(0, np.arange(3), SHAPE))[:, 0]
    assert not np.array_equal(latents(flex, seed=0, noise=start), latents(flex, seed=1, noise=start))
    np.testing.assert_array_equal(latents(flex, seed=0, noise=start), latents(flex, seed=0))


# ---------------------------------------------------------------- By hand


def by_hand(
    flex: FlexiDiT, plan: list[tuple[Patch, Patch | None]], s1: float, x: np.ndarray, z: np.ndarray | None
) -> np.ndarray:
    """DDPM (noise z given) or DDIM (z None) written out over `predict`, one (cond, guide) pair a step."""
    null = [None] * len(LABELS)
    chain = flex.process.chain(len(plan))
    for k, (cond, guide) in enumerate(plan):
        i = len(plan) - 1 - k
        t = np.full(len(x), chain.t[i])
        strong = flex.predict(x, t, LABELS, patch=cond)
        eps, v = np.asarray(strong.output), np.asarray(strong.variance)
        if guide == cond:
            e_null = np.asarray(flex.predict(x, t, null, patch=cond).output)
            eps = e_null + s1 * (eps - e_null)
        elif guide is not None:
            e_weak = np.asarray(flex.predict(x, t, LABELS, patch=guide).output)
            eps = e_weak + (1 + (s1 - 1) / 2.5) * (eps - e_weak)
        bar, bar_prev = chain.alpha_bar[i], chain.alpha_bar_prev[i]
        x0 = (x - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
        if z is None:
            x = np.sqrt(bar_prev) * x0 + np.sqrt(1 - bar_prev) * eps
        else:
            share = (v + 1) / 2
            log_variance = share * chain.log_beta[i] + (1 - share) * chain.log_posterior_variance[i]
            noise = z[k] * np.exp(log_variance / 2) if i else 0
            x = chain.coef_x0[i] * x0 + chain.coef_x[i] * x + noise
    return x


@pytest.mark.parametrize(
    ("words", "plan", "s1"),
    [
        ({"guidance": 1.0, "schedule": "4:2,2:2"}, [(P4, None), (P4, None), (P2, None), (P2, None)], 1.0),
        (
            {"guidance": 1.5, "schedule": "4:2,2:2", "guide": "4:3,2:1"},
            [(P4, P4), (P4, P4), (P2, P4), (P2, P2)],
            1.5,
        ),
        ({"guidance": 4.0, "schedule": "2/0"}, [(P4, P4), (P4, P4), (P2, P4), (P2, P4)], 4.0),
    ],
    ids=["unguided", "joined", "weak guide"],
)
def test_ddim_chains_written_out(flex: FlexiDiT, words: dict, plan: list, s1: float) -> None:
    noise = np.asarray(starting_noise(5, np.arange(3), SHAPE))[:, 0]
    ours = latents(flex, solver="ddim", seed=5, **words)
    reference = by_hand(flex, plan, s1, noise, None)
    assert np.abs(ours - reference).max() <= 2e-5 * np.abs(reference).max()


def test_a_budgeted_ddpm_chain_written_out(flex: FlexiDiT) -> None:
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(3, 8, 8, 4)).astype(np.float32)
    z = rng.normal(size=(4, 3, 8, 8, 4)).astype(np.float32)
    conditional = flex.plan(steps=4, budget=0.7, guidance=1.0).schedule
    assert len(conditional) == 2  # both modes take part
    plan = [(patch, None) for patch, count in conditional for _ in range(count)]
    ours = latents(flex, budget=0.7, noise=noise, step_noise=z)
    reference = by_hand(flex, plan, 1.0, noise, z)
    assert ours.shape == noise.shape
    assert np.abs(ours - reference).max() <= 2e-5 * np.abs(reference).max()


def test_captured_noise_belongs_to_its_sample_and_step(flex: FlexiDiT) -> None:
    rng = np.random.default_rng(1)
    noise = rng.normal(size=(5, 8, 8, 4)).astype(np.float32)
    z = rng.normal(size=(4, 5, 8, 8, 4)).astype(np.float32)
    labels = [0, 1, 2, 3, 0]
    words = {"schedule": "4:2,2:2", "batch": 3}
    whole = latents(flex, labels, noise=noise, step_noise=z, **words)  # three, then two and a filler
    order = [3, 4, 1, 0, 2]
    shuffled = latents(flex, [labels[i] for i in order], noise=noise[order], step_noise=z[:, order], **words)
    assert_same_sample(shuffled, whole[order])
    assert np.abs(latents(flex, labels, noise=noise, step_noise=z[::-1], **words) - whole).max() > 1e-3
