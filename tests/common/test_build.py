"""Parts are found by module name, keys are keyword arguments, and a typo names the nearest valid word."""

from __future__ import annotations

from typing import Any

import pytest

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError, closest, nearest

SOLVERS = "flexidit_jax.diffusion.solvers"


def maker(steps: int, rate: float = 0.5, **unused: Any) -> tuple[int, float]:
    return steps, rate


def strict(steps: int, rate: float = 0.5) -> tuple[int, float]:
    return steps, rate


def test_find_returns_the_named_modules_attribute() -> None:
    from flexidit_jax.diffusion.solvers import ddim

    assert build.find(SOLVERS, "ddim", "table") is ddim.table


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("dim", "no 'dim' in solvers/; did you mean 'ddim'?"),
        ("ddpmm", "no 'ddpmm' in solvers/; did you mean 'ddpm'?"),
    ],
)
def test_find_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build.find(SOLVERS, name, "table")
    assert str(caught.value) == message


def test_find_lists_the_modules_that_have_the_attribute_when_none_is_near() -> None:
    with pytest.raises(UserError) as caught:
        build.find(SOLVERS, "xyz", "table")
    assert str(caught.value).startswith("no 'xyz' in solvers/; known: ddim, ddpm")
    with pytest.raises(UserError) as caught:  # a module that exists but is not such a part
        build.find("flexidit_jax.convert", "files", "read_dit")
    assert str(caught.value) == "no 'files' in convert/; known: dit_layout"


def test_call_passes_keywords() -> None:
    assert build.call(strict, {"steps": 3}, "train") == (3, 0.5)
    assert build.call(strict, {"steps": 3, "rate": 2.0}, "train") == (3, 2.0)
    assert build.call(maker, {"steps": 3}, "train") == (3, 0.5)  # **unused is not a missing key


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"steps": 1, "rato": 1.0}, "unknown config key 'train.rato'; did you mean 'rate'?"),
        ({"steps": 1, "xyz": 1.0}, "unknown config key 'train.xyz'; known: rate, steps"),
        ({"rate": 1.0}, "config key 'train.steps' is missing"),
    ],
)
def test_call_refuses(section: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build.call(strict, section, "train")
    assert str(caught.value) == message


def test_part_builds_from_name_and_keys() -> None:
    from flexidit_jax.diffusion.gaussian import Process

    made = build.part("flexidit_jax.diffusion", "Process", {"name": "gaussian", "steps": 10}, "process")
    assert made == Process(steps=10)
    with pytest.raises(UserError) as caught:
        build.part("flexidit_jax.diffusion", "Process", {"steps": 10}, "process")
    assert str(caught.value) == "config key 'process.name' is missing"


@pytest.mark.parametrize(
    ("package", "attribute", "section", "message"),
    [
        (
            "flexidit_jax.diffusion",
            "Process",
            {"name": "flow", "steps": 9, "beta_start": 1e-4},
            "process.beta_start is a key of gaussian, not of flow; leave it out",
        ),
        (
            "flexidit_jax.data",
            "Dataset",
            {"name": "digits", "data_dir": "x"},
            "process.data_dir is a key of imagenet, not of digits; leave it out",
        ),
        (
            "flexidit_jax.diffusion",
            "Process",
            {"name": "flow", "shfit": 1.0},
            "unknown config key 'process.shfit'; did you mean 'shift'?",
        ),
    ],
)
def test_a_key_of_another_name_says_whose(package: str, attribute: str, section: dict[str, Any], message: str) -> None:
    for made in (build.part, build.check_part):
        with pytest.raises(UserError) as caught:
            made(package, attribute, section, "process")
        assert str(caught.value) == message


def test_positive() -> None:
    build.positive("model", width=1, depth=0.5)
    for bad in (0, -1, float("nan")):
        with pytest.raises(UserError) as caught:
            build.positive("model", width=4, depth=bad)
        assert str(caught.value) == f"model.depth must be positive, got {bad!r}"


def test_nearest() -> None:
    assert nearest("widht", ["depth", "width"]) == "; did you mean 'width'?"
    assert nearest("zzz", ["depth", "width"]) == "; known: depth, width"
    assert nearest("zzz", []) == ""


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("dpm++", ["ddim", "ddpm", "dpmpp_2m", "euler"], "dpmpp_2m"),
        ("DPM-Solver++", ["ddim", "ddpm", "dpmpp_2m", "euler"], None),
        ("DPM++ 2M", ["dpmpp_2m", "dpmpp_3m"], "dpmpp_2m"),
        ("sa", ["ddim", "sa_solver"], "sa_solver"),
        ("Heun2", ["euler", "heun"], "heun"),
        ("guidance-channels", ["guidance", "guidance_channels"], "guidance_channels"),
        ("guid", ["guide", "guidance", "guidance_channels"], "guide"),
        ("dpdm", ["ddim", "ddpm"], "ddpm"),
        ("dpm", ["ddim", "ddpm", "dpmpp_2m"], "ddpm"),
        ("digits", ["setup"], None),
        ("budget", ["num", "out", "mode", "heartbeat"], None),
        ("x", ["xla", "box"], None),
    ],
)
def test_a_hint_is_what_was_meant_or_none(typed: str, known: list[str], meant: str | None) -> None:
    assert closest(typed, known) == ([] if meant is None else [meant])


def test_a_name_a_module_merely_imports_is_not_found_in_it() -> None:
    with pytest.raises(UserError, match="no 'likelihood' in diffusion/; known: flow, gaussian"):
        build.find("flexidit_jax.diffusion", "likelihood", "Process")


@pytest.mark.parametrize("section", [3, "steps", ["steps"], None])
def test_what_is_no_section_is_refused(section: object) -> None:
    """Such as the body of a request."""
    for made in (lambda: build.call(strict, section, "request"), lambda: build.split(section, "request", strict)):
        with pytest.raises(UserError) as caught:
            made()
        assert str(caught.value) == f"config key 'request' must be a section, got {section!r}"
