"""Tables of modulations: exact, shared between samples, made for steps to come, one program a mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.sampling import engine, tables
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.tables import MOST, ROWS, Told
from flexidit_jax.sampling.trajectory import Program

P2, P4 = (1, 2, 2), (1, 4, 4)
WORDS = {"steps": 6, "decode": False, "progress": False, "guidance": 2.0, "schedule": "4:3,2:3"}


def drawn(flex: fd.FlexiDiT, labels: list[int | None], **words: object) -> np.ndarray:
    return flex.sample(labels, **{**WORDS, **words})


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[object, np.ndarray, np.ndarray]]]:
    """(mode, times, numbers of conditions) of every table that is made."""
    calls = []
    real = engine.Engine.table

    def table(self: engine.Engine, patch: object, t: np.ndarray, cond: object, rows: np.ndarray) -> object:
        calls.append((patch, t, rows))
        return real(self, patch, t, cond, rows)

    monkeypatch.setattr(engine.Engine, "table", table)
    return calls


@pytest.mark.parametrize("words", [{}, {"guide": "4:6", "packing": "packed"}, {"negative": 3}, {"guidance": 1.0}])
@pytest.mark.parametrize("adapters", [None, 2])
def test_before_the_steps_and_in_them(
    dit: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch, words: dict[str, object], adapters: int | None
) -> None:
    if adapters and "packing" in words:
        words = {**words, "packing": "separate"}
    flex = dit.flexify((2, 4), adapters=adapters)
    before = drawn(flex, [0, 1, None], **words)
    monkeypatch.setattr(tables, "MOST", 0)
    within = drawn(flex, [0, 1, None], **words)
    assert np.abs(before - within).max() <= 1e-6 * np.abs(within).max()


def test_a_table_holds_what_comes_next_once(flex: fd.FlexiDiT, made: list) -> None:
    drawn(flex, [1, 1, 2, None])
    assert [patch for patch, *_ in made] == [P4, P2]  # one a mode: 3 steps of 3 conditions each
    for _, t, rows in made:
        pairs = list(zip(t.tolist(), rows.tolist(), strict=True))
        assert len(pairs) == ROWS
        assert len(set(pairs)) == 9  # both samples of class 1 share a row, the null of all is that of the fourth sample
        assert len(set(t.tolist())) == 3
    assert set(made[0][2].tolist()) == {0, 2, 3}


def test_long_chains_have_several(flex: fd.FlexiDiT, made: list) -> None:
    steps = ROWS // 2 + 1  # two rows a step
    drawn(flex, [1], steps=steps, schedule=f"2:{steps}")
    assert len(made) == 2
    assert len(set(zip(made[0][1].tolist(), made[0][2].tolist()))) == ROWS
    assert len(set(zip(made[1][1].tolist(), made[1][2].tolist()))) == 2


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([1], {"guidance_interval": (0, 990)}),  # one unguided step: the table ends between a row and its guide's
        ([1, 1], {"negative": [2, 3]}),
        ([1], {"schedule": "2:33,4:7", "guide": "4:40"}),
    ],
)
def test_a_table_that_ends_within_a_step(
    flex: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch, labels: list[int], words: dict[str, object]
) -> None:
    words = {"steps": 40, "schedule": "2:40", "solver": "ddim", **words}
    before = drawn(flex, labels, **words)
    monkeypatch.setattr(tables, "MOST", 0)
    within = drawn(flex, labels, **words)
    assert np.abs(before - within).max() <= 1e-5 * np.abs(within).max()


def test_a_step_finds_its_rows_in_the_largest_batch(flex: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 2 * MOST <= ROWS
    labels = [i % 10 for i in range(MOST)]
    words = {"negative": labels[::-1], "steps": 2, "schedule": "2:2"}
    before = drawn(flex, labels, **words)
    monkeypatch.setattr(tables, "MOST", 0)
    assert np.abs(before - drawn(flex, labels, **words)).max() <= 1e-5 * np.abs(before).max()


def test_large_batches_have_none(flex: fd.FlexiDiT, made: list) -> None:
    labels = [0, 1] * (MOST // 2)
    drawn(flex, labels, steps=2, schedule="2:2")
    assert made
    made.clear()
    drawn(flex, [*labels, 2], steps=2, schedule="2:2")
    assert not made


def test_samples_at_other_steps_share_a_table(flex: fd.FlexiDiT, made: list) -> None:
    """Each as if alone: they stand at other times of other chains."""
    specs = [
        SampleSpec(**{key: WORDS[key] for key in ("guidance", "schedule", "steps")}),
        SampleSpec(steps=4, guidance=3.0),
    ]
    together = list(flex.steps([1, 2], spec=specs))[-1].x
    assert len(made) == 2
    alone = [list(flex.steps([label], spec=spec, first=i))[-1].x for i, (label, spec) in enumerate(zip([1, 2], specs))]
    assert np.abs(together - np.concatenate(alone)).max() <= 1e-5 * np.abs(together).max()


def test_an_old_state_stays_good(flex: fd.FlexiDiT) -> None:
    spec = SampleSpec(**{key: WORDS[key] for key in ("guidance", "schedule", "steps")})
    start = flex.sampler.start([1, 2], spec)
    ends = []
    for _ in range(2):
        state = start
        for _ in range(6):
            state = flex.sampler.step(state)
        ends.append(np.asarray(state.carry.x))
    np.testing.assert_array_equal(*ends)
    assert not start.tables


def test_conditions_that_are_alike_have_one_number(flex: fd.FlexiDiT) -> None:
    cond = flex.model.conditioner.parse([3, None, 3, 0])
    null = {**cond, "null": np.ones(4, bool)}
    told = Told.of(cond, (null, cond))
    assert told.numbers.tolist() == [[0, 1, 0, 3], [1, 1, 1, 1], [0, 1, 0, 3]]
    assert all(len(leaf) == 12 for leaf in told.rows.values())


def test_which_condition_a_mode_is_told() -> None:
    assert tables.reads(Program(P2)) == [(P2, 0)]
    assert tables.reads(Program(P2, P2)) == [(P2, 0), (P2, 1)]
    assert tables.reads(Program(P2, P4)) == [(P2, 0), (P4, 2)]


def test_no_program_for_steps_conditions_and_scales(flex: fd.FlexiDiT) -> None:
    flex = dataclasses.replace(flex, model=flex.model.clone(unroll=3))
    drawn(flex, [0, 1])
    programs = engine.compiled_programs()
    for steps, labels, guidance in ((5, [2, 2], 1.5), (40, [None, 3], 3.0), (9, [0, 1], 2.0)):
        drawn(flex, labels, steps=steps, guidance=guidance, schedule=f"4:{steps // 2},2:{steps - steps // 2}")
    assert engine.compiled_programs() == programs


def test_a_step_reads_no_weights_of_modulations(flex: fd.FlexiDiT) -> None:
    made = engine.Engine(flex.model, flex.params, flex.patches, apart=False)
    for hoisted in (True, False):
        _, weights = made.step(Program(P2, P2), hoisted)
        assert ("timestep" in weights[0]) is not hoisted
        assert ("modulation" in weights[0]["blocks"]) is not hoisted
    names = {
        key.key for path, _ in jax.tree_util.tree_leaves_with_path(made.step(Program(P2), True)[1]) for key in path[1:]
    }
    assert not names & {"modulation", "timestep", "norm1", "norm2"}
