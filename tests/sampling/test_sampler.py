"""Rows: samples of any specs in one call, each as if it were alone; a step at a time."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.types import Params
from flexidit_jax.diffusion import flow
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.sampling.engine import compiled_programs
from flexidit_jax.sampling.noise import draws, normal
from flexidit_jax.sampling.sampler import Snapshot, State
from flexidit_jax.sampling.schedule import Segment
from flexidit_jax.sampling.trajectory import Program, Trajectory

P2, P4 = (1, 2, 2), (1, 4, 4)
SHAPE = (1, 8, 8, 4)
WORDS = {"steps": 3, "schedule": "4:1,2:2", "guidance": 1.5, "decode": False, "progress": False}
QUIET = {"decode": False, "progress": False}
SA = {"name": "sa_solver", "tau": 1.0}
#: two budgets, two step counts, four solvers, two seeds, two scales, a guidance interval, a weak guide
MIXED = (
    fd.SampleSpec(steps=5, budget=0.7, seed=1),
    fd.SampleSpec(steps=7, budget=0.4, solver="ddim", seed=2, guidance=4.0),
    fd.SampleSpec(steps=5, budget=0.7, solver="dpmpp_2m", seed=1, guidance_interval=(200, 800)),
    fd.SampleSpec(steps=7, schedule="4:3,2:4", guide="4:7", solver=SA, seed=2),
    fd.SampleSpec(steps=5, budget=0.7, seed=1, guidance=4.0),
)
LABELS = [1, 2, 3, None, 5]


def close(ours: np.ndarray, theirs: np.ndarray) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * np.abs(theirs).max())


# ---------------------------------------------------------------- Batches


@pytest.mark.parametrize("given", ["drawn", "noise", "step noise"])
def test_batches_are_parts_of_one(flex: fd.FlexiDiT, given: str) -> None:
    """Five samples at once and in batches of two, the last of which is filled up."""
    rng, more = np.random.default_rng(0), {}
    if given != "drawn":
        more["noise"] = rng.normal(size=(5, 8, 8, 4)).astype(np.float32)
    if given == "step noise":
        more["step_noise"] = rng.normal(size=(3, 5, 8, 8, 4)).astype(np.float32)
    labels = [0, 1, 2, 3, None]
    whole = flex.sample(labels, **WORDS, **more)
    parts = flex.sample(labels, batch=2, **WORDS, **more)
    assert whole.shape == parts.shape == (5, 8, 8, 4)
    close(parts, whole)


def test_a_sequence_goes_on_where_it_was_left(flex: fd.FlexiDiT) -> None:
    whole = flex.sample([0, 1, 2, 3], seed=7, **WORDS)
    close(flex.sample([2, 3], seed=7, first=2, **WORDS), whole[2:])
    assert np.abs(flex.sample([2, 3], seed=7, **WORDS) - whole[2:]).max() > 0.1


# ---------------------------------------------------------------- Any specs in one call


@pytest.mark.parametrize("noise", ["drawn", "captured"])
@pytest.mark.parametrize("batch", [None, 3])
def test_every_sample_is_as_it_is_alone(flex: fd.FlexiDiT, noise: str, batch: int | None) -> None:
    given, rng = {}, np.random.default_rng(0)
    if noise == "captured":
        given = {"noise": rng.normal(size=(5, 8, 8, 4)), "step_noise": rng.normal(size=(7, 5, 8, 8, 4))}
        given = {key: value.astype(np.float32) for key, value in given.items()}
    together = flex.sample(LABELS, spec=list(MIXED), batch=batch, **given, **QUIET)
    for i, spec in enumerate(MIXED):
        mine = {}
        if given:
            mine = {"noise": given["noise"][i : i + 1], "step_noise": given["step_noise"][: spec.steps, i : i + 1]}
        close(together[i], flex.sample([LABELS[i]], spec=spec, first=i, **mine, **QUIET)[0])
    assert len({sample.tobytes() for sample in together}) == 5


def test_noise_is_the_samples_own_to_the_bit(flex: fd.FlexiDiT) -> None:
    """Whatever is beside it: x_T, and what each step added, which a carry holds."""
    sampler, cond = flex.sampler, flex.model.conditioner.parse(LABELS)
    state = sampler.start(cond, MIXED, numbers=np.arange(5) + 10)
    for i, spec in enumerate(MIXED):
        np.testing.assert_array_equal(state.carry.x[i], normal(*draws(spec.seed, np.array([10 + i]), -1), SHAPE)[0])
    for k in range(4):
        state = sampler.step(state)
        for i in (0, 4):  # ddpm
            mine = normal(*draws(MIXED[i].seed, np.array([10 + i]), k), SHAPE)
            np.testing.assert_array_equal(state.carry.z_last[i], mine[0])
    last = sampler.step(state).carry.z_last[0]  # ddpm's last step is not noisy, nor is its group
    np.testing.assert_array_equal(last, state.carry.x0_prev[0])


def test_noise_is_that_of_seed_number_and_draw(flex: fd.FlexiDiT) -> None:
    """Draw 0 is x_T, k + 1 that of step k: another formula would make other images of every seed there is."""

    @jax.jit
    @jax.vmap
    def drawn(number: jax.Array) -> jax.Array:
        key = jax.random.fold_in(jax.random.key(7), number)
        return jax.vmap(lambda draw: jax.random.normal(jax.random.fold_in(key, draw), (8, 8, 4)))(np.arange(4))

    noise, *step_noise = np.asarray(drawn(np.arange(5, 7))).swapaxes(0, 1)
    words = {**WORDS, "solver": "ddpm", "seed": 7, "first": 5}
    ours = flex.sample([0, 1], **words)
    close(flex.sample([0, 1], noise=noise, step_noise=np.stack(step_noise), **words), ours)
    again = np.stack([noise, *step_noise[:-1]])  # a draw too early, x_T for step 0
    assert np.abs(flex.sample([0, 1], noise=noise, step_noise=again, **words) - ours).max() > 1e-2 * np.abs(ours).max()


def test_a_word_stands_in_place_of_that_of_every_spec(flex: fd.FlexiDiT) -> None:
    specs = [replace(spec, steps=4, schedule=None, guide=None, budget=0.7) for spec in MIXED]
    np.testing.assert_array_equal(
        flex.sample(LABELS, spec=MIXED, steps=4, budget=0.7, guide=None, **QUIET),
        flex.sample(LABELS, spec=specs, **QUIET),
    )


def test_a_step_may_take_two_evaluations_beside_one_that_takes_one(flex: fd.FlexiDiT) -> None:
    flowing = replace(flex, process=flow.Process(), model=flex.model.clone(learn_variance=False), params=halved(flex))
    specs = [fd.SampleSpec(steps=3, solver=solver, schedule="4:1,2:2", guidance=2.0) for solver in ("heun", "euler")]
    together = flowing.sample([1, 2], spec=specs, **QUIET)
    for i, spec in enumerate(specs):
        close(together[i], flowing.sample([i + 1], spec=spec, first=i, **QUIET)[0])
    done = [snapshot.done.tolist() for snapshot in flowing.steps([1, 2], spec=specs)]
    assert done == [[1, 1], [2, 2], [3, 3]]


def halved(flex: fd.FlexiDiT) -> Params:
    """The parameters of a network without a learned variance."""
    deembed = {key: leaf[..., : SHAPE[-1]] for key, leaf in flex.params["tokens"]["deembed"].items()}
    return {**flex.params, "tokens": {**flex.params["tokens"], "deembed": deembed}}


def test_modes_with_adapters_are_grouped_too(dit: fd.FlexiDiT) -> None:
    adapted = dit.flexify((2, 4), adapters=2)
    specs = [fd.SampleSpec(steps=2, schedule=words, guidance=1.0) for words in ("4:1,2:1", "2:2", "4:2")]
    together = adapted.sample([1, 2, 3], spec=specs, **QUIET)
    for i, spec in enumerate(specs):
        close(together[i], adapted.sample([i + 1], spec=spec, first=i, **QUIET)[0])


def test_a_list_of_specs_needs_no_name(flex: fd.FlexiDiT) -> None:
    named = flex.sample(LABELS, spec=MIXED, **QUIET)
    np.testing.assert_array_equal(flex.sample(LABELS, list(MIXED), **QUIET), named)
    *_, last = flex.steps(LABELS, MIXED)
    np.testing.assert_array_equal(last.x[:, 0], named)


def test_twenty_specs_compile_nothing(flex: fd.FlexiDiT) -> None:
    solvers = ("ddpm", "ddim", "dpmpp_2m", SA)
    cycle = itertools.cycle((4, 5, 6, 7, 8))
    specs = [
        fd.SampleSpec(steps=next(cycle), budget=0.35 + 0.03 * i, solver=solvers[i % 4], seed=i, guidance=1.5 + i)
        for i in range(20)
    ]
    every_size = [fd.SampleSpec(steps=2, schedule=words) for words in ("2:2", "4:2", "4:1,2:1", "2:2")]
    for end in (1, 2, 4):  # of each pair, in groups of one, two and four
        for words in ("2:2", "4:2"):
            flex.sample([1, 2, 3, 4][:end], spec=[fd.SampleSpec(steps=2, schedule=words)] * end, **QUIET)
    flex.sample([1, 2, 3, 4], spec=every_size, **QUIET)
    before = compiled_programs()
    for i in range(0, 20, 4):
        flex.sample([1, 2, 3, 4], spec=specs[i : i + 4], **QUIET)
    for spec in specs:
        flex.sample([1, 2, 3, 4], spec=spec, **QUIET)
    assert compiled_programs() == before


def test_groups_are_filled_up_to_a_power_of_two(flex: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, int]] = []
    engine = flex.sampler.engine
    run = engine.run

    def look(program: Program, rows: Any, *rest: Any) -> Any:
        seen.append((f"{program.cond_patch[1]}", len(rows.scale)))
        return run(program, rows, *rest)

    monkeypatch.setattr(engine, "run", look)
    words = {"steps": 1, "guidance": 1.0}
    specs = [fd.SampleSpec(schedule="2:1", **words)] * 3 + [fd.SampleSpec(schedule="4:1", **words)] * 3
    together = flex.sample([1] * 6, spec=specs, **QUIET)
    flex.sample([1] * 6, spec=specs[0], **QUIET)
    flex.sample([1] * 6, spec=[*specs[:5], specs[0]], **QUIET)
    assert seen == [("2", 4), ("4", 4), ("2", 6), ("2", 4), ("4", 2)]
    for i in (0, 2, 3, 5):  # what fills a group up is nobody's sample
        close(together[i], flex.sample([1], spec=specs[i], first=i, **QUIET)[0])


# ---------------------------------------------------------------- A step at a time


def started(flex: fd.FlexiDiT, specs: Any, **more: Any) -> State:
    return flex.sampler.start(flex.model.conditioner.parse(LABELS[: len(specs)]), specs, **more)


def test_snapshots_tell_steps_and_estimates(flex: fd.FlexiDiT) -> None:
    specs = [fd.SampleSpec(steps=n, solver="ddim", guidance=1.0) for n in (2, 4)]
    snapshots = list(flex.steps([1, 2], spec=specs))
    assert [snapshot.done.tolist() for snapshot in snapshots] == [[1, 1], [2, 2], [2, 3], [2, 4]]
    assert [snapshot.steps.tolist() for snapshot in snapshots] == [[2, 4]] * 4
    assert [snapshot.finished for snapshot in snapshots] == [False, False, False, True]
    np.testing.assert_array_equal(snapshots[1].x[0], snapshots[3].x[0])  # a finished sample waits
    first, last = snapshots[0], snapshots[-1]
    assert last.x.shape == last.x0.shape == (2, *SHAPE)
    np.testing.assert_array_equal(last.x, last.x0)  # DDIM lands on its estimate
    t = flex.process.chain(4).t[-1]
    noise = np.asarray(normal(*draws(0, np.array([1]), -1), SHAPE))
    eps, bar = flex.predict(noise, np.array([t]), [2]).output, flex.process.chain(4).alpha_bar[-1]
    close(first.x0[1:], (noise - np.sqrt(1 - bar) * np.asarray(eps)) / np.sqrt(bar))
    np.testing.assert_array_equal(last.x[:, 0], flex.sample([1, 2], spec=specs, **QUIET))


def test_snapshots_of_batches(flex: fd.FlexiDiT) -> None:
    """One after the other, without what fills up the last."""
    seen: list[Snapshot] = list(flex.steps([1, 2, 3], steps=2, guidance=1.0, batch=2))
    assert [snapshot.x.shape[0] for snapshot in seen] == [2, 2, 1, 1]
    assert [snapshot.done.tolist() for snapshot in seen] == [[1, 1], [2, 2], [1], [2]]


def test_a_state_is_a_value(flex: fd.FlexiDiT) -> None:
    sampler, start = flex.sampler, started(flex, MIXED[:3])
    once, again = sampler.step(start), sampler.step(start)
    np.testing.assert_array_equal(once.carry.x, again.carry.x)
    assert start.at.tolist() == [0, 0, 0] and once.at.tolist() == [1, 1, 1]
    assert np.abs(once.carry.x - start.carry.x).max() > 0.01
    whole = flex.sample(LABELS[:3], spec=MIXED[:3], **QUIET)
    np.testing.assert_array_equal(list(sampler.run(once))[-1].x[:, 0], whole)  # goes on from where it is


@pytest.mark.parametrize("given", [False, True], ids=["drawn", "captured"])
def test_samples_at_other_steps_of_their_chains_share_a_call(flex: fd.FlexiDiT, given: bool) -> None:
    """As in a server: the first begins while the second has made two steps."""
    rng, spec, more = np.random.default_rng(0), fd.SampleSpec(steps=4, guidance=1.0, seed=3), {}
    noise = rng.normal(size=(2, *SHAPE)).astype(np.float32)
    if given:
        more["captured"] = rng.normal(size=(4, 2, *SHAPE)).astype(np.float32)

    def stepped(rows: list[int]) -> np.ndarray:
        mine = {key: value[:, rows] for key, value in more.items()}
        cond = flex.model.conditioner.parse([LABELS[i] for i in rows])
        state = flex.sampler.start(cond, spec, numbers=np.array(rows), noise=noise[rows], **mine)
        state = flex.sampler.step(replace(state, at=np.array([0, 2])[rows]))
        assert state.at.tolist() == [[1, 3][i] for i in rows]
        return np.asarray(state.carry.x)

    together = stepped([0, 1])
    for i in range(2):
        close(together[i], stepped([i])[0])


def test_stopping_is_not_to_go_on(flex: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Program] = []
    engine = flex.sampler.engine
    run = engine.run
    monkeypatch.setattr(engine, "run", lambda program, *words: calls.append(program) or run(program, *words))
    chain = flex.steps([1], steps=50, schedule="4:50", guidance=1.0)
    assert calls == []
    for snapshot in chain:
        if snapshot.done[0] == 3:
            break
    assert len(calls) == 3


def test_trajectory_of_two_evaluations_a_step() -> None:
    """Heun: each step but the last evaluates twice, with the modes and scale of its step."""
    table = make_table("heun", flow.Process(), 3)
    runs = [Segment(0, 1, P4, None, 1.0), Segment(1, 2, P2, P4, 1.5, "packed"), Segment(2, 3, P2, P2, 2.0, "packed")]
    chain = Trajectory.of(runs, table, channels=3, seed=5)
    weak, packed, itself = Program(P4), Program(P2, P4, "packed", 3), Program(P2, P2, "separate", 3)
    assert chain.programs == (weak, weak, packed, packed, itself)
    assert chain.scale.tolist() == [1.0, 1.0, 1.5, 1.5, 2.0]
    assert chain.step.tolist() == [0, 0, 1, 1, 2] and chain.steps == 3 and chain.seed == 5
    assert chain.ends.tolist() == [2, 2, 4, 4, 5, 5]
    assert chain.done.tolist() == [0, 0, 1, 1, 2, 3]
    np.testing.assert_array_equal(chain.numbers, table.rows())


# ---------------------------------------------------------------- Refusals


def test_refusals(flex: fd.FlexiDiT) -> None:
    for words, message in (
        ({"spec": MIXED[:2]}, r"^spec must be one for all samples or one for each of 3, got 2$"),
        ({"spec": []}, r"^spec must be one for all samples or one for each of 3, got 0$"),
        ({"spec": [MIXED[0], 3, MIXED[1]]}, r"^spec must be a SampleSpec, got int$"),
        ({"spec": [MIXED[0], None, MIXED[1]]}, r"^spec must be a SampleSpec, got NoneType$"),
        ({"spec": MIXED[:3], "stesp": 3}, r"^sample takes no 'stesp'; did you mean 'steps'\?$"),
        ({"negative": [1, 2]}, r"^negative must be one for all samples or one for each of 3, got 2$"),
        ({"spec": MIXED[:3], "noise": np.zeros((3, 8, 8, 4)), "step_noise": np.zeros((5, 3, 8, 8, 4))}, "steps=7"),
    ):
        with pytest.raises(fd.UserError, match=message):
            flex.sample([0, 1, 2], **words, **QUIET)
    with pytest.raises(fd.UserError, match=r"^spec must be a SampleSpec, got list$"):
        flex.plan(spec=[MIXED[0]])
    start, noise = flex.sampler.start, np.zeros((2, *SHAPE), np.float32)
    for words, message in (
        (([1, 99], MIXED[0]), r"^label 99 is out of range: 0\.\.10"),
        (([1, 2], "ddim"), r"^spec must be one for all samples or one for each of 2, got 4$"),
        (([1, 2], ["ddim", "ddpm"]), r"^spec must be a SampleSpec, got str$"),
        (([1, 2], MIXED[0], [1, 2, 3]), r"^negative must be one for all samples or one for each of 2, got 3$"),
        (([1, 2], MIXED[0], None, [0]), r"^numbers must be 2 whole numbers in 0\.\.2\^32-1, got \[0\]$"),
        (([1, 2], MIXED[0], None, [0.5, 1]), r"^numbers must be 2 whole numbers"),
        (([1, 2], MIXED[0], None, [0, np.nan]), r"^numbers must be finite, got nan at \[1\]$"),
        (([1, 2], MIXED[0], None, [0, 2**32]), r"^numbers must be 2 whole numbers"),
        (([1, 2], MIXED[0], None, [-1, 0]), r"^numbers must be 2 whole numbers"),
        (([1, 2], MIXED[0], None, None, noise[:1]), r"^noise is for 1 samples, but 2 are asked for$"),
        (([1, 2], MIXED[0], None, None, noise, np.stack([noise] * 4)), r"^step_noise must have shape \[steps=5"),
    ):
        with pytest.raises(fd.UserError, match=message):
            start(*words)
    with pytest.raises(fd.UserError, match=r"^no packing 'pakced'"):
        flex.steps([0], packing="pakced")  # at once, not at the first step
