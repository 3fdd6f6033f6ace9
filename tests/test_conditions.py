"""A kind of condition that is one file: tokens of a text, a mask and a learned caption for none, through everything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.conditioning.condition import Condition, Context, guides, negatives, of_records, parsed, size
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import flexify
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.models.layers import Dense
from flexidit_jax.programs import serve_exported
from flexidit_jax.programs.bundle import Export, write_exported
from flexidit_jax.programs.lower import sampling_programs, training_programs
from flexidit_jax.sampling.packing import LAYOUTS, layout_flops
from flexidit_jax.sampling.tables import MOST
from flexidit_jax.training.flops import recomputed_flops, training_flops
from flexidit_jax.training.losses.diffusion import Loss
from flexidit_jax.training.optimizer import AdamW, Ema
from flexidit_jax.training.section import Training
from flexidit_jax.training.sharding import make_mesh
from flexidit_jax.training.stages import Stage
from flexidit_jax.training.state import first_state
from flexidit_jax.training.step import make_step
from flexidit_jax.training.updates import UpdateCounts

P2, P4 = (1, 2, 2), (1, 4, 4)
LENGTH, FEATURES, LATENT = 3, 5, (1, 8, 8, 4)
WORDS = {"steps": 3, "decode": False, "progress": False}


class Tokens(nn.Module):
    """A caption's tokens through one layer, which blocks read; the caption of no condition is learned."""

    width: int
    drop_rate: float = 0.1
    fields = ("tokens", "mask")
    length = LENGTH
    limits: ClassVar = {}

    @nn.compact
    def __call__(self, cond: Condition) -> Context:
        caption = self.param("caption", nn.initializers.normal(1.0), (LENGTH, FEATURES), jnp.float32)
        null = cond["null"][:, None]
        tokens, mask = jnp.where(null[..., None], caption, cond["tokens"]), null | cond["mask"]
        read = Dense(self.width, jnp.float32, nn.initializers.normal(1.0), name="read")
        return Context(None, read(tokens), mask)  # [B, M, d], [B, M]

    def parse(self, asked: Sequence[Any]) -> Condition:
        """Captions [m, k] of at most `LENGTH` tokens, or None."""
        cond = {
            "tokens": np.zeros((len(asked), LENGTH, FEATURES), np.float32),
            "mask": np.zeros((len(asked), LENGTH), bool),
            "null": np.array([caption is None for caption in asked]),
        }
        for i, caption in enumerate(asked):
            if caption is not None:
                cond["tokens"][i, : len(caption)], cond["mask"][i, : len(caption)] = caption, True
        return cond


@pytest.fixture(scope="module")
def flex() -> fd.FlexiDiT:
    """Modes 2 and 4, every leaf moved off zero."""
    model = build_dit(LATENT, {"name": "classes", "classes": 3}, width=16, depth=2, num_heads=2)
    model = model.clone(conditioner=Tokens(width=16))
    stored = flexify(init(model, jax.random.key(0)), [P2, P4])
    rng = np.random.default_rng(0)
    stored = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), stored)
    return fd.FlexiDiT(model, stored, Process(), None)


@pytest.fixture(scope="module")
def captions() -> list[np.ndarray | None]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(n, FEATURES)).astype(np.float32) if n else None for n in (2, 3, 0, 1)]


def with_other_token(captions: list[np.ndarray | None]) -> list[np.ndarray | None]:
    """The last token of caption 1 replaced."""
    other = [None if caption is None else caption.copy() for caption in captions]
    other[1][2] = 3.0
    return other


def moved(ours: np.ndarray, theirs: np.ndarray) -> list[bool]:
    """Which samples differ in any bit."""
    return np.any((np.asarray(ours) != np.asarray(theirs)).reshape(len(ours), -1), axis=1).tolist()


ONLY_1 = [False, True, False, False]


# ---------------------------------------------------------------- Predictions and samples


@pytest.mark.parametrize("patch", [2, 4])
def test_a_token_moves_its_own_prediction(flex: fd.FlexiDiT, captions: list, patch: int) -> None:
    x, t = np.random.default_rng(2).normal(size=(4, 8, 8, 4)).astype(np.float32), np.full(4, 500)
    run = partial(flex.predict, x, t, patch=patch)
    before = run(captions)
    for part, after in zip(before, run(with_other_token(captions)), strict=True):
        assert moved(part, after) == ONLY_1
    padded = flex.model.conditioner.parse(captions)
    padded["tokens"] = np.where(padded["mask"][..., None], padded["tokens"], 7.0)  # behind the mask
    assert moved(before.output, run(padded).output) == [False] * 4


def test_none_is_the_learned_caption(flex: fd.FlexiDiT, captions: list) -> None:
    x, t = np.random.default_rng(2).normal(size=(1, 8, 8, 4)).astype(np.float32), np.full(1, 500)
    learned = np.asarray(flex.params["trunk"]["conditioner"]["caption"])
    np.testing.assert_array_equal(flex.predict(x, t, [None]).output, flex.predict(x, t, [learned]).output)
    assert moved(flex.predict(x, t, [None]).output, flex.predict(x, t, [captions[0]]).output) == [True]


@pytest.mark.parametrize("packing", LAYOUTS)
def test_a_token_moves_its_own_sample(flex: fd.FlexiDiT, captions: list, packing: str) -> None:
    words = {"schedule": "4:1,2:2", "guide": "4:2,2:1", "guidance": 2.0, "packing": packing, **WORDS}
    before, after = flex.sample(captions, **words), flex.sample(with_other_token(captions), **words)
    assert moved(before, after) == ONLY_1
    apart = flex.sample(captions, **{**words, "packing": "separate"})
    np.testing.assert_allclose(before, apart, rtol=0, atol=1e-5 * np.abs(apart).max())


@pytest.mark.parametrize("guide", [2, 4], ids=["itself", "weaker"])
def test_a_negative_is_the_guides_condition(flex: fd.FlexiDiT, captions: list, guide: int) -> None:
    """DDIM in one step, written out: x_0 is the guided estimate."""
    words = {**WORDS, "steps": 1, "schedule": "2:1", "guide": f"{guide}:1", "solver": "ddim"}
    noise = np.random.default_rng(3).normal(size=(4, 8, 8, 4)).astype(np.float32)
    away = [captions[1], None, captions[0], captions[3]]
    ours = flex.sample(captions, negative=away, guidance=3.0, noise=noise, **words)
    (t,), scale = flex.process.chain(1).t, 3.0 if guide == 2 else 1 + 2.0 / 2.5
    run = partial(flex.predict, noise, np.full(4, t))
    strong = np.asarray(run(captions).output)
    led = [captions[i] if caption is None and guide == 4 else caption for i, caption in enumerate(away)]
    weak = np.asarray(run(led, patch=guide).output)
    eps, bar = weak + scale * (strong - weak), flex.process.chain(1).alpha_bar[0]
    wanted = (noise - np.sqrt(1 - bar) * eps) / np.sqrt(bar)
    np.testing.assert_allclose(ours, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
    one, each = (flex.sample(captions, negative=[captions[0]] * n, guidance=3.0, noise=noise, **words) for n in (1, 4))
    np.testing.assert_array_equal(one, each)
    assert moved(one, ours) == [True, True, False, True]


def test_flops_count_what_is_read_of_tokens_and_no_conditioner(flex: fd.FlexiDiT) -> None:
    def more(count: Callable[[DiT], int]) -> int:
        """Beyond a model that reads classes."""
        return count(flex.model) - count(flex.model.clone(conditioner=classes))

    def reading(rows: int, tokens: int, text: int) -> int:
        macs = 2 * (tokens + text) * 16**2 + 2 * tokens * text * 16  # q and proj, k and v; scores and values
        return 2 * rows * flex.model.depth * macs

    classes = build_dit(LATENT, {"name": "classes", "classes": 3}, width=16, depth=2, num_heads=2).conditioner
    assert [more(partial(forward_flops, patch=patch)) for patch in (P2, P4)] == [
        reading(1, 16, LENGTH),
        reading(1, 4, LENGTH),
    ]
    for packing, rows, tokens, texts in (("joined", 5, 20, 2), ("packed", 7, 16, 4), ("padded", 10, 16, 1)):
        found = more(partial(layout_flops, packing, cond=P2, guide=P4, batch=5))
        assert found == reading(rows, tokens, texts * LENGTH), packing
    adapted = Stage((P2, P4), 5, loss=Loss(), adapters=2)
    kernels = 2 * flex.model.depth * 2 * (16 + LENGTH) * 16**2
    assert more(partial(training_flops, stage=adapted, patch=P2)) == 3 * reading(1, 16, LENGTH) - kernels
    dots = [model.clone(remat="dots") for model in (flex.model, flex.model.clone(conditioner=classes))]
    assert recomputed_flops(dots[0], P2) - recomputed_flops(dots[1], P2) == 2 * flex.model.depth * 2 * 16 * LENGTH * 16


# ---------------------------------------------------------------- Training


@pytest.mark.parametrize(("rate", "learns"), [(0.0, False), (0.5, True)])
def test_dropping_trains_the_caption_of_none(flex: fd.FlexiDiT, rate: float, learns: bool) -> None:
    model = flex.model.clone(conditioner=Tokens(width=16, drop_rate=rate))
    optimizer = optax.sgd(1.0)
    state = first_state(init(model, jax.random.key(0)), Stage((P2, P4), 5), optimizer)
    state = state.replace(params=jax.tree.map(jnp.copy, flex.params))
    rng = np.random.default_rng(0)
    records = {
        "tokens": rng.normal(size=(8, LENGTH, FEATURES)).astype(np.float32),
        "mask": np.ones((8, LENGTH), bool),
        "x": rng.normal(size=(8, *LATENT)).astype(np.float32),
    }
    step = make_step(model, Process(), Loss(), optimizer, Ema(), 0, accumulate=2)
    after, metrics = step(
        state, records["x"], of_records(model.conditioner, records), 0, P4, UpdateCounts((), 0).next(P4)
    )
    before, found = (tree["trunk"]["conditioner"] for tree in (flex.params, after.params))
    assert np.isfinite(metrics["loss"])
    assert np.any(found["caption"] != before["caption"]) == learns
    assert np.any(found["read"]["kernel"] != before["read"]["kernel"])


# ---------------------------------------------------------------- Programs


def test_its_programs_compile_from_shapes(flex: fd.FlexiDiT) -> None:
    train = Training(
        batch=4, stages=(Stage((P2, P4), 5, loss=Loss()),), optimizer=AdamW(), ema=Ema(), mesh={}, log_every=1,
        checkpoint_every=1, keep=1, workers=0, accumulate=1, preview_every=None, spike=None,
    )  # fmt: skip
    words = (flex.model, flex.process, train)
    spec = fd.SampleSpec(steps=3, schedule="4:1,2:2", guide="4:2,2:1", packing="packed")
    many = MOST + 1  # whose steps make modulations themselves
    lowerings = [*sampling_programs(*words, spec, many, jax.devices()[0]), *training_programs(*words, 0, make_mesh())]
    assert [lowering.name for lowering in lowerings] == [
        "sample, 4+4", "sample, 2+4, packed", "sample, 2+2", "train, patch 2", "train, patch 4"
    ]  # fmt: skip
    for lowering in lowerings:
        lowered = lowering.lower()
        text = lowered.as_text()
        batch, sampling = lowering.batch, lowering.name.startswith("sample")
        assert (f"tensor<{batch}x{LENGTH}x{FEATURES}xf32>" in text) is not sampling, lowering.name
        assert (f"tensor<{LENGTH}x{FEATURES}xf32>" in text) is not sampling, lowering.name  # the caption of none
        each = 2 if lowering.name in ("sample, 4+4", "sample, 2+2") else 1  # of a sample, that one mode is given
        read = f"tensor<{batch}x{each}x{LENGTH}" if sampling else f"tensor<{batch}x{LENGTH}"
        assert f"{read}x2x8xf32>" in text and f"{read}xi1>" in text, lowering.name
        assert lowered.compile().cost_analysis()["flops"] > 0


def test_an_export_samples_by_tokens(flex: fd.FlexiDiT, captions: list, tmp_path: Path) -> None:
    section = Export(platforms=("cpu",), pairs=("2+2", "2+4", "4"), tables=({"solver": "ddim", "steps": 3},))
    write_exported(flex, section, section.solver_tables(flex.process, fd.SampleSpec()), tmp_path / "out")
    cond = {key: np.asarray(value) for key, value in flex.model.conditioner.parse(captions).items()}
    words = {"schedule": "4:1,2:2", "guide": "none:1,4:1,2:1", "guidance": 2.0, "seed": 3}
    negative = [captions[3]]
    ours = flex.sample(captions, negative=negative, solver="ddim", **words, **WORDS)
    away = flex.model.conditioner.parse(negative)
    served = serve_exported.sample(tmp_path / "out", cond, away, **words)[:, 0]
    np.testing.assert_allclose(served, ours, rtol=0, atol=1e-5 * np.abs(ours).max())
    np.savez(tmp_path / "cond.npz", **{key: cond[key] for key in ("tokens", "mask")})  # null left out: none is null
    flags = ["--schedule=4:3", f"--out={tmp_path / 'x.npy'}"]
    serve_exported.main([str(tmp_path / "out"), f"--cond={tmp_path / 'cond.npz'}", *flags])
    given = {"tokens": cond["tokens"], "mask": cond["mask"]}
    ours = flex.sample(given, solver="ddim", schedule="4:3", guidance=1.0, **WORDS)
    np.testing.assert_allclose(np.load(tmp_path / "x.npy")[:, 0], ours, rtol=0, atol=1e-5 * np.abs(ours).max())
    with pytest.raises(
        ValueError, match=r"^cond of this model is no list of numbers; give an \.npz of mask, null, tok"
    ):
        serve_exported.sample(tmp_path / "out", [1, 2])


# ---------------------------------------------------------------- A condition as it is


def test_a_condition_is_looked_at(dit: fd.FlexiDiT, flex: fd.FlexiDiT, captions: list) -> None:
    conditioner, classes = flex.model.conditioner, dit.model.conditioner
    cond = conditioner.parse(captions)
    again = parsed(conditioner, {**cond, "tokens": cond["tokens"].astype(np.float64)})
    assert {key: value.dtype for key, value in again.items()} == {key: value.dtype for key, value in cond.items()}
    assert all(np.array_equal(again[key], cond[key]) for key in cond)
    np.testing.assert_array_equal(parsed(classes, {"label": [1, 9]})["null"], [False, False])
    for asked, of, message in (
        ({**cond, "token": 1}, conditioner, r"^the condition of this model has no 'token'; did you mean 'tokens'\?$"),
        ({"tokens": cond["tokens"]}, conditioner, r"^the condition lacks 'mask'; it wants tokens, mask$"),
        (
            {**cond, "mask": cond["mask"][:3]},
            conditioner,
            r"^mask of the condition must be bool \[4, 3\], got bool \[3, 3",
        ),
        (
            {**cond, "mask": 1.0 * cond["mask"]},
            conditioner,
            r"^mask of .* must be bool \[4, 3\], got float64 \[4, 3\]$",
        ),
        ({"label": [1, 10]}, classes, r"^label of the condition must lie in 0\.\.9, got 1\.\.10$"),
        ({"label": [[1, 2], [3]]}, classes, r"^label of the condition must be int32 \[2\], got rows of other lengths$"),
        ({"label": []}, classes, r"^label of the condition must be int32 \[B\], got"),
        ({}, classes, r"^the condition lacks 'label'; it wants label$"),
    ):
        with pytest.raises(UserError, match=message):
            parsed(of, asked)


def test_negatives_are_none_one_or_one_a_sample(dit: fd.FlexiDiT) -> None:
    classes = dit.model.conditioner
    assert negatives(classes, None, 3) is None
    for one in (7, [7], np.array([7]), jnp.array([7]), {"label": [7]}):
        np.testing.assert_array_equal(negatives(classes, one, 3)["label"], [7, 7, 7])
    each = negatives(classes, [1, None, 2], 3)
    np.testing.assert_array_equal(each["null"], [False, True, False])
    cond = classes.parse([4, 5, 6])
    itself, weaker = guides(cond, each)
    assert itself is each
    np.testing.assert_array_equal(weaker["label"], [1, 5, 2])
    np.testing.assert_array_equal(weaker["null"], [False] * 3)
    itself, weaker = guides(cond, None)
    assert weaker is cond and itself["null"].all() and size(itself) == 3
    for wrong, message in (
        ([1, 2], r"^negative must be one for all samples or one for each of 3, got 2$"),
        (99, r"^negative: label 99 is out of range"),
        ("cat", r"^negative: label 'cat' is not an integer"),
        ([], r"^negative: labels are empty"),
        ({"label": [1.5]}, r"^negative: label of the condition must be int32 \[1\], got float64 \[1\]$"),
    ):
        with pytest.raises(UserError, match=message):
            negatives(classes, wrong, 3)
    with pytest.raises(UserError, match=r"^negative must be one for all samples, got 2$"):
        negatives(classes, [1, 2], 1)
