"""Every public argument, told what it cannot be: one line names the argument, or it is one that takes such a thing.

The arguments are read off the signatures, so that a new one is looked at before anybody lists it here.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.sampler import Sampler

GOLDEN = Path(__file__).parent / "golden" / "dit_tiny.safetensors"
X = np.zeros((2, 8, 8, 4), np.float32)
QUICK = {"steps": 4, "guidance": 1.0}
ASKED = {"labels": [1, 2], "noise": X, **QUICK}
WRONG = {
    "None": None,
    "nan": math.nan,
    "infinity": math.inf,
    "0-d nan": np.float32(math.nan),
    "float": 1.5,
    "negative": -1,
    "huge": 10**20,
    "beyond float": 10**400,
    "string": "x",
    "empty string": "",
    "list": [1.5, "x"],
    "empty list": [],
    "ragged list": [[1], [1, 2]],
    "mapping": {},
    "object": object(),
    "NaN array": np.full((2, 8, 8, 4), math.nan, np.float32),
    "empty array": np.zeros((0, 8, 8, 4), np.float32),
    "jax array": jax.numpy.full((3,), math.inf),
    "array of words": np.array(["a", "b"]),
}
#: what no argument takes; the others some do
NEVER = ("nan", "infinity", "0-d nan", "beyond float", "object", "NaN array", "jax array", "array of words")
#: a call that goes through: the function, and what it is told
CALLS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "load": (fd.load, {"path": GOLDEN}),
    "flexify": (fd.FlexiDiT.flexify, {"patches": (2, 4)}),
    "predict": (fd.FlexiDiT.predict, {"x": X, "t": [0, 999], "labels": [1, 2]}),
    "plan": (fd.FlexiDiT.plan, QUICK),
    "flops": (fd.FlexiDiT.flops, QUICK),
    "sample": (fd.FlexiDiT.sample, {**ASKED, "progress": False}),
    "steps": (fd.FlexiDiT.steps, ASKED),
    "decode": (fd.FlexiDiT.decode, {"latents": X}),
    "export": (fd.FlexiDiT.export, {"path": "out.safetensors"}),
    "save": (fd.FlexiDiT.save, {"path": "out"}),
    "spec": (fd.SampleSpec, {}),
    "start": (Sampler.start, {"asked": [1, 2], "specs": fd.SampleSpec(**QUICK), "noise": X}),
    "step": (Sampler.step, {"state": None}),
    "run": (Sampler.run, {"state": None}),
}
#: what a message calls an argument beside its name
ALSO = {
    "labels": "label", "asked": "labels?", "patches": "patch", "weak": "patch", "specs": "spec", "guide": "schedule",
    "captured": "step_noise", "solver": "solvers", "process": "diffusion",
}  # fmt: skip


def of(name: str) -> list[str]:
    return [key for key in inspect.signature(CALLS[name][0]).parameters if key != "self"]


@pytest.fixture(scope="module")
def model(dit: fd.FlexiDiT) -> fd.FlexiDiT:
    """With two modes and a codec; nothing is evaluated."""
    return dataclasses.replace(dit.flexify((2, 4)), codec=Codec())


@pytest.fixture
def called(dit: fd.FlexiDiT, model: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    """Makes a call of `CALLS` with a word of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flexidit_jax.api._predict", lambda model, params, mode, x, t, cond: fd.Prediction(x, None))
    monkeypatch.setattr(Engine, "run", lambda self, program, rows, carry, *rest: carry)
    monkeypatch.setattr("flexidit_jax.sampling.sampler.times_of", lambda *words: None)
    monkeypatch.setattr(
        "flexidit_jax.sampling.latency.times_of", lambda *words: lambda cases: dict.fromkeys(cases, 1.0)
    )

    def call(name: str, **words: Any) -> Any:
        function, told = CALLS[name]
        told = {**told, **words}
        if name in ("step", "run") and told["state"] is None and not words:
            told["state"] = model.sampler.start([1, 2], fd.SampleSpec(**QUICK))
        if name in ("load", "spec"):
            return function(**told)
        of = model.sampler if inspect.getmodule(function) is inspect.getmodule(Sampler) else model
        made = function(dit if name == "flexify" else of, **told)
        return list(made) if isinstance(made, Iterator) else made

    return call


@pytest.mark.parametrize("name", CALLS)
def test_the_calls_themselves_go_through(called: Callable[..., Any], name: str) -> None:
    called(name)


@pytest.mark.parametrize(("name", "key"), [(name, key) for name in CALLS for key in of(name)])
def test_a_wrong_argument_is_named_and_nothing_compiled(called: Callable[..., Any], name: str, key: str) -> None:
    names = rf"(^|[^\w])({key}|{ALSO.get(key, key)})($|[^\w])"
    for kind, wrong in WRONG.items():
        with Compilations() as compiled:
            try:
                called(name, **{key: wrong})
            except fd.UserError as error:
                message = str(error)
            except Exception as error:
                raise AssertionError(f"{name}({key}={kind}) raises {error!r}") from error
            else:
                assert kind not in NEVER, f"{name}({key}={kind}) goes through"
                continue
        named = re.search(names, message) or (key in ("path", "base") and message.startswith(f"{wrong} "))
        assert named, f"{name}({key}={kind}): {message}"
        assert "\n" not in message and len(message) < 300, message
        assert compiled.count == 0, f"{name}({key}={kind})"
