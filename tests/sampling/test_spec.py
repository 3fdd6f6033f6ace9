"""How to sample, in one value: what it takes, refuses, records, and that every way to say it is the same."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common import build
from flexidit_jax.sampling import spec as module

KEYS = [field.name for field in dataclasses.fields(fd.SampleSpec)]


# ---------------------------------------------------------------- The value


def test_equal_words_are_one_key_of_a_table() -> None:
    solver = {"tau": 0.5, "name": "sa_solver"}
    one = fd.SampleSpec(solver=solver, guidance_interval=[200, 700], weak=[2, 4], steps=jnp.int32(20), seed=np.array(0))
    other = fd.SampleSpec(solver=dict(reversed(solver.items())), guidance_interval=(200, 700), weak=(2, 4), steps=20)
    assert one == other and len({one, other}) == 1
    assert fd.SampleSpec(solver={"name": "ddim", 1: 2}).solver == (("1", 2), ("name", "ddim"))
    assert fd.SampleSpec(weak=np.array([2, 4])).weak == (2, 4)
    assert one.solver == (("name", "sa_solver"), ("tau", 0.5))
    assert one != dataclasses.replace(one, seed=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.seed = 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"steps": "10"}, "steps must be int or None, got '10'"),
        ({"steps": 10.5}, "steps must be int or None, got 10.5"),
        ({"steps": 2**63}, "steps must lie within 64 bits, got 9223372036854775808"),
        ({"steps": True}, "steps must be int or None, got True"),
        ({"budget": "half"}, "budget must be float or None, got 'half'"),
        ({"schedule": 4}, "schedule must be str or None, got 4"),
        ({"guidance": True}, "guidance must be float or str or None, got True"),
        ({"seed": 1.5}, "seed must be int or None, got 1.5"),
        ({"seed": 2**32}, f"seed must lie in 0..2^32-1, got {2**32}"),
        ({"guidance_channels": 1.5}, "guidance_channels must be int or None, got 1.5"),
        ({"packing": "pakced"}, "no packing 'pakced'; did you mean 'packed'?"),
        ({"weak": "a"}, "patch 'a' is not one to three positive integers, such as 4, (2, 4) or '2x4x4'"),
        ({"latency_ms": 0}, "latency_ms must be a positive number of milliseconds, got 0"),
        ({"guidance_interval": 3}, "guidance_interval must be (lowest, highest) of the times guided, got 3"),
        ({"solver": 3}, "solver must be a name, or a name and keywords, got 3"),
        ({"solver": {"a", "b"}}, "solver must be made of numbers and words, got set"),
        ({"weak": b"abc"}, "weak must be made of numbers and words, got bytes"),
        ({"steps": np.zeros((2, 2))}, "steps must be int or None, got ((0.0, 0.0), (0.0, 0.0))"),
        ({"guidance": float("nan")}, "guidance must be finite, got nan"),
        ({"weak_guidance": 10**400}, f"weak_guidance must be finite, got 1{96 * '0'}..."),
        ({"weak_guidance": 10**5000}, "weak_guidance must be finite, got an integer of 16610 bits"),
        ({"guidance": 1e39}, "guidance must be finite, got 1e+39"),
        ({"guidance_interval": (0, float("inf"))}, "guidance_interval must be finite, got (0, inf)"),
        (
            {"solver": {"name": "sa_solver", "tau": float("nan")}},
            "solver must be finite, got (('name', 'sa_solver'), ('tau', nan))",
        ),
        ({"latency_ms": float("inf")}, "latency_ms must be finite, got inf"),
    ],
)
def test_what_no_model_could_do_is_refused_at_once(words: dict[str, Any], says: str) -> None:
    with pytest.raises(fd.UserError, match=f"^{re.escape(says)}$"):
        fd.SampleSpec(**words)


# ---------------------------------------------------------------- Records


def test_numbers_of_numpy_and_jax_are_numbers_and_a_whole_float_is_an_integer() -> None:
    words = {"guidance": np.float32(1.5), "guidance_channels": jnp.asarray(3)}
    spec = fd.SampleSpec(steps=10.0, seed=np.uint32(7), **words)
    assert spec == fd.SampleSpec(steps=10, seed=7, guidance=1.5, guidance_channels=3)
    assert [type(getattr(spec, key)) for key in ("steps", "seed", "guidance")] == [int, int, float]
    assert fd.SampleSpec(weak=np.array([2, 4]), solver={"name": "sa_solver", "tau": np.float64(1)}).solver[1][1] == 1.0


def test_a_seed_that_nobody_chose_is_drawn_once_and_said(flex: fd.FlexiDiT, capsys: pytest.CaptureFixture[str]) -> None:
    """A spec holds the number from then on: what is recorded, compared and sampled is a value."""
    spec = fd.SampleSpec(seed=None, steps=2)
    assert capsys.readouterr().err == f"seed: drew {spec.seed}; seed={spec.seed} makes the same samples again\n"
    assert fd.SampleSpec.of_record(spec.recorded()) == spec == dataclasses.replace(spec)
    assert 0 <= spec.seed < 2**31 and spec.seed != fd.SampleSpec(seed=None).seed
    capsys.readouterr()
    chain = flex.steps([1, 2], spec=[spec, fd.SampleSpec(steps=3)], seed=None)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert next(chain).seeds.tolist() == [int(re.search(r"drew (\d+);", line)[1])] * 2
    with pytest.raises(fd.UserError):
        fd.SampleSpec(seed=None, packing="pakced")
    assert capsys.readouterr().err == ""


def test_a_record_holds_every_key_and_comes_back() -> None:
    words = {"solver": {"name": "sa_solver", "tau": 0.5}, "guidance_interval": (1, 2.5), "weak": (2, 4), "seed": 7}
    for spec in (fd.SampleSpec(), fd.SampleSpec(budget=0.5, guidance="1:5,2:5", **words)):
        record = json.loads(json.dumps(spec.recorded()))
        assert list(record) == KEYS
        assert fd.SampleSpec.of_record(record) == spec
    assert record["solver"] == words["solver"]


#: what every key meant when it was introduced; a line is added with a key and never changed
INTRODUCED = {
    "steps": 250,
    "budget": None,
    "schedule": None,
    "guide": None,
    "guidance": 1.5,
    "weak_guidance": None,
    "guidance_interval": None,
    "guidance_channels": None,
    "solver": "ddpm",
    "seed": 0,
    "weak": None,
    "latency_ms": None,
    "packing": "separate",
    "size": None,
    "aspect": None,
    "frames": None,
}


def test_a_key_that_a_record_leaves_out_means_what_it_meant_when_it_was_introduced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fd.SampleSpec.of_record({}).recorded() == INTRODUCED
    monkeypatch.setitem(module.INTRODUCED, "guidance", 4.0)  # as if the default had been 4 once
    assert fd.SampleSpec.of_record({"steps": 9}) == fd.SampleSpec(steps=9, guidance=4.0, solver="ddpm")
    assert fd.SampleSpec.of_record({"guidance": 2.0}).guidance == 2.0
    with pytest.raises(fd.UserError, match=r"^unknown config key 'sample\.stesp'; did you mean 'steps'\?$"):
        fd.SampleSpec.of_record({"stesp": 9})


@pytest.mark.parametrize("record", [None, [], "steps", 4])
def test_what_is_no_record(record: object) -> None:
    with pytest.raises(fd.UserError, match=r"^a record is a mapping as `recorded` makes it, got \w+$"):
        fd.SampleSpec.of_record(record)


# ---------------------------------------------------------------- The model's own words


def test_what_nobody_says_is_the_models_own(flex: fd.FlexiDiT, texts: fd.FlexiDiT) -> None:
    """A DiT as ever; a model of texts as PixArt. What is said holds, word by word."""
    open_spec = fd.SampleSpec()
    assert (open_spec.steps, open_spec.solver, open_spec.guidance) == (None, None, None)
    assert flex.meant() == dataclasses.replace(open_spec, steps=250, solver="ddpm", guidance=1.5)
    pixart = {"steps": 20, "solver": {"name": "dpmpp_2m", "grid": "diffusers"}}
    assert texts.meant() == dataclasses.replace(open_spec, **pixart, guidance=4.5)
    said = fd.SampleSpec(steps=4, solver="ddim", guidance=2.0, budget=0.6)
    assert texts.meant(spec=said) == flex.meant(spec=said) == said
    assert texts.meant(steps=7, budget=0.6).solver_section == pixart["solver"]
    scales = [{run.scale for run in model.plan().segments} for model in (flex, texts)]
    assert scales == [{1.5}, {4.5}] and len(texts.plan().evaluations) == 20


@pytest.mark.parametrize(
    ("percent", "scale"),
    [
        (100, 4.5),
        (85, 4.5),
        (82, 4.6),
        (79, 4.7),
        (72, 4.7),
        (68.5, 4.8),
        (65, 4.9),
        (60.8, 4.96),
        (58, 5.0),
        (30, 5.0),
    ],
)
def test_guidance_rises_where_less_is_spent(texts: fd.FlexiDiT, percent: float, scale: float) -> None:
    own = module.own_words(texts.model.conditioner)
    assert fd.SampleSpec().meant(own, percent / 100).guidance == scale
    assert fd.SampleSpec(guidance=3.0).meant(own, percent / 100).guidance == 3.0
    assert fd.SampleSpec().meant(module.OWN, percent / 100).guidance == 1.5


def test_what_is_spent_is_that_of_the_plan(texts: fd.FlexiDiT) -> None:
    for words in ({"budget": 0.7}, {"schedule": "4:11,2:9"}, {"schedule": "9/9"}):
        spec = texts.meant(**words)
        assert spec == fd.SampleSpec.of_record(spec.recorded()) and spec.steps == 20
        share = texts.flops(**words).relative
        assert 0.58 < share < 0.72
        assert spec.guidance == round(4.9 - (share - 0.65) / 0.07 * (0.2 if share > 0.65 else 0.1), 3)
        assert {run.scale for run in texts.plan(**words).segments} == {spec.guidance}
        assert texts.plan(spec=spec) == texts.plan(**words)
        assert texts.meant(spec=dataclasses.replace(spec, guidance=None)) == spec
        settled = spec.settled(texts.plan(spec=spec))
        assert texts.meant(spec=dataclasses.replace(settled, guidance=None)).guidance == spec.guidance
    assert texts.meant(budget=0.7, guidance=2.0).guidance == 2.0


# ---------------------------------------------------------------- Ways to say it


def test_a_spec_words_and_positions_say_the_same(flex: fd.FlexiDiT) -> None:
    words = {"steps": 4, "budget": 0.6, "guidance": 2.0, "seed": 3, "guidance_channels": 3}
    spec = fd.SampleSpec(**words)
    quiet = {"decode": False, "progress": False}
    first = flex.sample([0, 1], spec=spec, **quiet)
    positions = (4, 0.6, None, None, 2.0, None, None, 3, "ddpm", 3, None, None, None, "separate", 0)
    for said in (
        flex.sample([0, 1], **words, **quiet),
        flex.sample(labels=[0, 1], spec=dataclasses.replace(spec, seed=9, budget=None), seed=3, budget=0.6, **quiet),
        flex.sample([0, 1], *positions, **quiet),
        flex.sample([0, 1], 4, spec=dataclasses.replace(spec, steps=5), **quiet),
        flex.sample([0, 1], spec, **quiet),
    ):
        np.testing.assert_array_equal(said, first)
    plan = flex.plan(spec=spec)
    assert flex.plan(4, None, None, 0.6, 2.0) == flex.plan(spec=spec, seed=8) == plan
    assert flex.plan(4, "4:2,2:2", "4:3,2:1", None, 2.0, 1.3, None, None, "ddim") == flex.plan(
        steps=4, schedule="4:2,2:2", guide="4:3,2:1", guidance=2.0, weak_guidance=1.3, solver="ddim"
    )
    assert flex.flops(4, "4:2,2:2", None, guidance=2.0) == flex.flops(spec=spec, budget=None, schedule="4:2,2:2")


def test_positions_are_those_of_before() -> None:
    """The order in which `sample`, `plan` and `flops` took words before there was a spec."""
    before = {
        "sample": "self labels steps budget schedule guide guidance weak_guidance guidance_interval guidance_channels"
        " solver seed weak batch latency_ms packing first noise step_noise decode progress",
        "plan": "self steps schedule guide budget guidance weak_guidance guidance_interval weak solver latency_ms batch"
        " packing guidance_channels",
        "flops": "self steps schedule guide",
    }
    for name, order in before.items():
        parameters = inspect.signature(getattr(fd.FlexiDiT, name)).parameters
        positional = [p for p in parameters if parameters[p].kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
        assert positional == order.split()
        assert {*KEYS, "spec"} <= set(parameters)
        assert inspect.signature(getattr(fd.FlexiDiT, name)).return_annotation != inspect.Signature.empty


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({"budgett": 0.5}, "sample takes no 'budgett'; did you mean 'budget'?"),
        ({"bacth": 3}, "sample takes no 'bacth'; did you mean 'batch'?"),
        ({"step_nois": 3}, "sample takes no 'step_nois'; did you mean 'step_noise'?"),
        ({"ellf": 3}, "sample takes no 'ellf'; known: aspect, batch, budget, decode, first, frames,"),
        ({"spec": {"steps": 3}}, "spec must be a SampleSpec, got dict"),
    ],
)
def test_a_misspelt_word_names_the_nearest_of_all(flex: fd.FlexiDiT, words: dict[str, Any], says: str) -> None:
    with pytest.raises(fd.UserError, match=f"^{re.escape(says)}"):
        flex.sample([0], **words)


def test_a_misspelt_word_of_the_spec_itself() -> None:
    with pytest.raises(fd.UserError, match=r"^SampleSpec takes no 'budgt'; did you mean 'budget'\?$"):
        fd.SampleSpec(budgt=0.5)


def test_a_choice_puts_the_others_of_a_spec_aside(flex: fd.FlexiDiT) -> None:
    spec = fd.SampleSpec(steps=4, budget=0.6, guidance=1.0)
    scheduled = flex.plan(spec=spec, schedule="4:1,2:3")
    assert str(scheduled) == "4:1,2:3; guide: none"
    assert flex.plan(spec=spec.settled(scheduled), budget=0.6) == flex.plan(spec=spec)
    assert flex.plan(spec=spec, schedule=None, seed=3) == flex.plan(spec=spec)
    with pytest.raises(fd.UserError, match=r"^give a schedule or a budget, not both"):
        flex.plan(spec=spec, schedule="4:4", budget=0.5)


def test_too_many_words_or_one_twice(flex: fd.FlexiDiT) -> None:
    with pytest.raises(fd.UserError, match=r"^sample is told steps twice$"):
        flex.sample([0], 4, steps=4)
    with pytest.raises(fd.UserError, match=r"^flops takes 3 words without their names, got 4$"):
        flex.flops(4, None, None, 0.5)


def test_a_config_and_a_request_are_checked_as_one_section() -> None:
    assert build.call(fd.SampleSpec, {"steps": 5, "budget": 0.5}, "request") == fd.SampleSpec(steps=5, budget=0.5)
    with pytest.raises(fd.UserError, match=r"^unknown config key 'request\.solvr'; did you mean 'solver'\?$"):
        build.call(fd.SampleSpec, {"solvr": "ddim"}, "request")


# ---------------------------------------------------------------- Settled


@pytest.mark.parametrize(
    "words",
    [
        {},
        {"guidance": 1.0},
        {"budget": 0.6},
        {"schedule": "3/1", "guidance": "1:1,4:4", "weak": 4},
        {"schedule": "4:2,2:3", "guide": "none:1,4:4", "weak_guidance": 1.3},
        {"budget": 0.7, "guidance": 3.0, "guidance_interval": (100, 700)},
        {"schedule": "4:5", "guidance_interval": (1, 2)},
    ],
)
def test_a_settled_spec_runs_the_same_plan(flex: fd.FlexiDiT, words: dict[str, Any]) -> None:
    spec = fd.SampleSpec(steps=5, **words)
    plan = flex.plan(spec=spec)
    settled = spec.settled(plan)
    assert (settled.budget, settled.latency_ms) == (None, None)
    assert flex.plan(spec=settled) == plan
    assert settled.recorded() == spec.recorded() | {
        "schedule": settled.schedule, "guide": settled.guide, "budget": None
    }  # fmt: skip
