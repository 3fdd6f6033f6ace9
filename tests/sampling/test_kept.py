"""What blocks read of a condition: made once a prompt, shared by steps and modes, and never by a step."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.trees import flatten
from flexidit_jax.diffusion.steps import Steps, begin
from flexidit_jax.models.conditioning.condition import Condition, as_null
from flexidit_jax.sampling import engine as module
from flexidit_jax.sampling import tables
from flexidit_jax.sampling.engine import Engine, compiled_programs
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.trajectory import Program, StepRows
from flexidit_jax.sampling.weights import maker

GOLDEN = Path(__file__).parents[1] / "golden"
P2, P4 = (1, 2, 2), (1, 4, 4)
#: tokens of a text and their features, which no other size of the model is
M, K = 10, 24
WORDS = {"steps": 4, "schedule": "4:2,2:2", "guide": "4:3,2:1", "guidance": 2.0, "decode": False, "progress": False}
#: of the largest value
TOLERANCE = 1e-6


def moved(flex: fd.FlexiDiT, **model: Any) -> fd.FlexiDiT:
    """With every leaf off zero."""
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype(np.float32), flex.params)
    return replace(flex, model=flex.model.clone(**model), params=params)


def captioned(name: str) -> fd.FlexiDiT:
    """A model to which no text is ten tokens, read by the mask of a caption."""
    flex = fd.load(GOLDEN / f"{name}.safetensors")
    conditioner = flex.model.conditioner.clone(length=M, null_length=M, null_mask="caption")
    trunk = flex.params["trunk"]
    trunk = {**trunk, "conditioner": {**trunk["conditioner"], "null": np.ones((M, K), np.float32)}}
    return replace(flex, model=flex.model.clone(conditioner=conditioner), params={**flex.params, "trunk": trunk})


@pytest.fixture(scope="module")
def pixart() -> fd.FlexiDiT:
    """Modes 2 and 4."""
    return moved(captioned("pixart_tiny").flexify((2, 4)))


@pytest.fixture(scope="module")
def micro() -> fd.FlexiDiT:
    return moved(captioned("pixart_micro_tiny").flexify((2, 4)))


@pytest.fixture(scope="module")
def texts() -> list[np.ndarray | None]:
    rng = np.random.default_rng(1)
    return [rng.normal(size=(n, K)).astype(np.float32) if n else None for n in (M, 3, 0)]


def near(ours: Any, theirs: Any, tolerance: float = TOLERANCE) -> bool:
    return float(np.abs(np.asarray(ours) - theirs).max()) <= tolerance * float(np.abs(np.asarray(theirs)).max())


# ---------------------------------------------------------------- One call


@pytest.mark.parametrize("patch", [P2, P4])
@pytest.mark.parametrize("apart", [True, False])
def test_a_context_with_keys_and_values_predicts_the_same(
    pixart: fd.FlexiDiT, texts: list, patch: tuple[int, int, int], apart: bool
) -> None:
    model, params = pixart.model.at(patch), fd.api.at(pixart.params, patch)
    x, t = np.random.default_rng(2).normal(size=(3, *model.latent)).astype(np.float32), np.array([1.0, 500, 998])
    cond = model.conditioner.parse(texts)
    network, conditioning = maker(model, apart)(params)
    kept = jax.jit(partial(model.apply, method="kept"), static_argnums=2)({"params": conditioning}, cond, apart)
    assert kept.tokens is None and kept.vector is None
    assert jax.tree.leaves(kept.kept)[0].shape == ((3, M, 3, 12) if apart else (3, 2, M, 3, 12))
    assert not any("cross_attention/k" in name or "cross_attention/v" in name for name in flatten(network))
    modulations = model.apply({"params": conditioning}, t, kept, method="modulations")
    network = {name: part for name, part in network.items() if name != "conditioner"}
    ours = jax.jit(model.apply)({"params": network}, x, t, kept, modulations)
    for part, whole in zip(ours, jax.jit(model.apply)({"params": params}, x, t, cond), strict=True):
        assert near(part, whole)


@pytest.mark.parametrize("packing", ["separate", "packed", "joined"])
@pytest.mark.parametrize("apart", [True, False])
def test_a_token_that_is_no_number_is_its_readers_alone(
    pixart: fd.FlexiDiT, texts: list, packing: str, apart: bool
) -> None:
    """Of three images the second reads one; behind the mask of the third nobody does."""
    engine, program = Engine(pixart.model, pixart.params, pixart.patches, apart=apart), Program(P2, P4, packing)
    x = np.random.default_rng(3).normal(size=(3, *pixart.model.latent)).astype(np.float32)
    cond = pixart.model.conditioner.parse([texts[0], texts[1], texts[1]])
    spoilt = {**cond, "tokens": cond["tokens"].copy()}
    spoilt["tokens"][1, 1], spoilt["tokens"][2, 5] = np.nan, np.inf
    before, after = (evaluated(engine, program, [engine.given(P2, [one])] * 2, x) for one in (cond, spoilt))
    assert np.isnan(after[1]).all()
    np.testing.assert_array_equal(np.asarray(after)[[0, 2]], np.asarray(before)[[0, 2]])


# ---------------------------------------------------------------- A step


def evaluated(engine: Engine, program: Program, given: list[Any], x: np.ndarray) -> np.ndarray:
    """x after a step of DDIM, modulations made in it."""
    run, weights = engine.step(program, hoisted=False)
    rows = StepRows(np.tile(TABLE.rows()[:1], (3, 1)), np.full(3, 2.0, np.float32))
    return jax.jit(run)(weights, None, rows, begin(jnp.asarray(x)), given, x).x


TABLE = SampleSpec(steps=3, solver="ddim").table(fd.load(GOLDEN / "dit_tiny.safetensors").process)


@pytest.mark.parametrize(
    "program",
    [Program(P2), Program(P4, P4), *(Program(P2, P4, packing) for packing in ("separate", "packed", "joined"))],
    ids=str,
)
def test_a_step_gives_what_it_gives_of_conditions_themselves(
    pixart: fd.FlexiDiT, texts: list, program: Program
) -> None:
    cond = pixart.model.conditioner.parse(texts)
    conds = [cond, as_null(cond), pixart.model.conditioner.parse([texts[1]] * 3)]
    x = np.random.default_rng(3).normal(size=(3, *pixart.model.latent)).astype(np.float32)
    asked = tables.asked_of(program)
    plain = [{key: np.stack([conds[i][key] for i in which], 1) for key in cond} for _, which in asked]
    stacked, apart = (Engine(pixart.model, pixart.params, pixart.patches, apart=apart) for apart in (False, True))
    theirs = evaluated(stacked, program, plain, x)
    for engine in (stacked, apart):
        given = [engine.given(engine.readers[patch], [conds[i] for i in which]) for patch, which in asked]
        assert near(evaluated(engine, program, given, x), theirs)


@pytest.mark.parametrize("hoisted", [True, False])
@pytest.mark.parametrize("apart", [True, False])
def test_a_compiled_step_has_no_product_with_what_makes_keys_and_values(
    pixart: fd.FlexiDiT, apart: bool, hoisted: bool
) -> None:
    """Nothing as wide as a text's features, and no product with its tokens but attention's two."""
    engine, program = Engine(pixart.model, pixart.params, pixart.patches, apart=apart), Program(P2, P4)
    run, weights = engine.step(program, hoisted)
    batch = 5
    x = jax.ShapeDtypeStruct((batch, *pixart.model.latent), np.float32)
    rows = StepRows(np.zeros((batch, len(Steps._fields)), np.float32), np.zeros(batch, np.float32))
    made = None
    if hoisted:
        rows = rows._replace(pick=np.zeros((batch, 2), np.int32))
        made = [engine.table_shapes(patch, 7) for patch in program.modes]
    carry = jax.eval_shape(begin, x)

    def products(given: list[Any]) -> set[tuple[int, ...]]:
        """Shapes of left sides whose rows are tokens of texts."""
        compiled = jax.jit(run).lower(weights, made, rows, carry, given, x)
        text = compiled.as_text()
        assert (f"x{K}xf32" in text) is isinstance(given[0], dict)
        shapes = re.findall(r"stablehlo\.dot_general.*?: \(tensor<([\dx]+)xf32>", text)
        return {tuple(map(int, shape.split("x"))) for shape in shapes if int(shape.split("x")[0]) == batch * M}

    kept = [engine.given_shapes(patch, batch, 1) for patch in program.modes]
    assert not products(kept)
    if not apart and not hoisted:  # the search finds them where they are
        cond = {
            key: jax.ShapeDtypeStruct((batch, 1, *leaf.shape[1:]), leaf.dtype)
            for key, leaf in pixart.model.conditioner.parse([None]).items()
        }
        assert products([cond, cond]) == {(batch * M, K), (batch * M, 36)}
    names = {"/".join(key.key for key in path[1:]) for path, _ in jax.tree_util.tree_leaves_with_path(weights)}
    assert hoisted is not any("cross_attention/k/kernel" in name for name in names)


# ---------------------------------------------------------------- Samples


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[Any, int]]]:
    """(mode, conditions of a sample) whenever something is made for steps."""
    calls = []
    real = Engine.given

    def given(self: Engine, patch: Any, conds: list[Condition]) -> Any:
        calls.append((patch, len(conds)))
        return real(self, patch, conds)

    monkeypatch.setattr(Engine, "given", given)
    return calls


def test_it_is_made_once_and_shared_by_steps_and_modes(pixart: fd.FlexiDiT, texts: list, made: list) -> None:
    """4+4, 4+4, 2+4, 2+2: what is read of both conditions, which comes again, and of the one."""
    pixart.sample(texts, **WORDS)
    assert made == [(P2, 2), (P2, 1)]
    made.clear()
    pixart.sample(texts, **{**WORDS, "guide": None, "steps": 40, "schedule": "4:20,2:20"})
    assert made == [(P2, 2)]


def test_a_mode_with_keys_of_its_own_reads_what_is_its_own(pixart: fd.FlexiDiT, texts: list, made: list) -> None:
    own = pixart.params["modes"]["1x4x4"]
    kernel = np.asarray(pixart.params["trunk"]["blocks"]["cross_attention"]["k"]["kernel"])
    cross = {"cross_attention": {"k": {"kernel": kernel + np.float32(0.3)}}}
    modes = {**pixart.params["modes"], "1x4x4": {**own, "blocks": {**own["blocks"], **cross}}}
    flex = replace(pixart, params={**pixart.params, "modes": modes})
    words = {**WORDS, "solver": "ddim", "steps": 1, "guidance": 1.0, "guide": None}
    noise = np.random.default_rng(5).normal(size=(3, 16, 16, 4)).astype(np.float32)
    for patch in (2, 4):
        ours = flex.sample(texts, noise=noise, **{**words, "schedule": f"{patch}:1"})
        (t,), bar = flex.process.chain(1).t, flex.process.chain(1).alpha_bar[0]
        eps = flex.predict(noise, np.full(3, t), texts, patch=patch).output
        assert near(ours, (noise - np.sqrt(1 - bar) * eps) / np.sqrt(bar), 1e-5)
    assert made == [(P2, 1), (P4, 1)]


@pytest.mark.parametrize("model", ["pixart", "micro"])
def test_before_the_steps_and_in_them(
    model: str, request: pytest.FixtureRequest, texts: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tables or not, with micro-conditions of their own or without."""
    flex = request.getfixturevalue(model)
    cond = flex.model.conditioner.parse(texts)
    if model == "micro":
        cond["resolution"][1], cond["aspect_ratio"][1] = (512, 768), 0.67
    before = flex.sample(cond, negative=[texts[1]], **WORDS)
    monkeypatch.setattr(tables, "MOST", 0)
    assert near(before, flex.sample(cond, negative=[texts[1]], **WORDS), 1e-5)


def test_both_halves_of_guidance_have_the_micro_conditions_of_the_picture(micro: fd.FlexiDiT, texts: list) -> None:
    cond = micro.model.conditioner.parse(texts)
    cond["resolution"][:], cond["aspect_ratio"][:] = (512, 768), 0.67
    away = micro.model.conditioner.parse([texts[1]])
    told = {**away, "resolution": cond["resolution"][:1], "aspect_ratio": cond["aspect_ratio"][:1]}
    ours, theirs = (micro.sample(cond, negative=negative, **WORDS) for negative in (away, told))
    np.testing.assert_array_equal(ours, theirs)
    state = micro.sampler.start(cond, SampleSpec(steps=2))
    np.testing.assert_array_equal(state.conds[1]["resolution"], cond["resolution"])


def test_without_micro_conditions_all_texts_share_their_modulations(pixart: fd.FlexiDiT, micro: fd.FlexiDiT) -> None:
    for flex, wanted in ((pixart, [[0, 0], [0, 0], [0, 0]]), (micro, [[0, 1], [0, 1], [0, 1]])):
        cond = flex.model.conditioner.parse([None, None])
        if flex is micro:
            cond["resolution"][1] = 512, 768
        told = tables.Told.of(cond, (as_null(cond), cond), flex.sampler.engine.modulating)
        assert told.numbers.tolist() == wanted


def test_samples_at_other_steps_read_their_own_text(pixart: fd.FlexiDiT, texts: list) -> None:
    specs = [
        SampleSpec(steps=4, schedule="4:2,2:2", guidance=2.0),
        SampleSpec(steps=3, guidance=3.0),
        SampleSpec(steps=2),
    ]
    together = list(pixart.steps(texts, spec=specs))[-1].x
    alone = [list(pixart.steps([text], spec=spec, first=i))[-1].x for i, (text, spec) in enumerate(zip(texts, specs))]
    assert near(together, np.concatenate(alone), 1e-5)


def test_what_no_step_to_come_reads_is_let_go(pixart: fd.FlexiDiT, texts: list) -> None:
    state = pixart.sampler.start(texts, SampleSpec(steps=4, schedule="4:2,2:2", guide="4:3,2:1", guidance=2.0))
    held = []
    for _ in range(4):
        state = pixart.sampler.step(state)
        held.append(sorted(which for _, which in state.given))
    assert held == [[(0, 1)], [(0, 1)], [(0,), (0, 1)], [(0,), (0, 1)]]
    state = pixart.sampler.start(texts, SampleSpec(steps=4, schedule="4:2,2:2", guide="4:4", guidance=2.0))
    for _ in range(3):
        state = pixart.sampler.step(state)
    assert list(state.given) == [(P2, (0,))]


def test_in_bfloat16_and_with_adapters(pixart: fd.FlexiDiT, texts: list, made: list) -> None:
    flex = captioned("pixart_tiny").flexify((2, 4), adapters=2)
    flex = moved(flex, dtype="bfloat16")
    outs = [replace(flex, merge_adapters=merge).sample(texts, **WORDS) for merge in (True, False)]
    assert made == 2 * [(P2, 2), (P2, 1)]  # cross-attention is that of all modes
    full = replace(flex, model=flex.model.clone(dtype="float32")).sample(texts, **WORDS)
    assert all(near(out, full, 0.1) for out in outs)
    kept = flex.sampler.engine.given_shapes(P2, 1, 1)
    assert {leaf.dtype for leaf in jax.tree.leaves(kept.kept)} == {jnp.dtype("bfloat16")}


def test_no_program_for_texts_steps_and_scales(pixart: fd.FlexiDiT, texts: list) -> None:
    pixart.sample(texts, **WORDS)
    programs = compiled_programs()
    for i, guidance in enumerate((1.5, 3.0, 4.5)):
        pixart.sample(
            texts[::-1],
            **{**WORDS, "guidance": guidance, "steps": 6, "schedule": "4:3,2:3", "guide": "4:5,2:1", "seed": i},
        )
    assert compiled_programs() == programs
    assert module._kept._cache_size() > 0


# ---------------------------------------------------------------- No text


@pytest.fixture(scope="module")
def bare() -> fd.FlexiDiT:
    """A model in whose file nothing stands for no text."""
    flex = fd.load(GOLDEN / "pixart_tiny.safetensors").flexify((2, 4))
    return replace(flex, model=flex.model.clone(conditioner=flex.model.conditioner.clone(length=M)))


NOTHING = (
    "guidance: this model has nothing that stands for no text; load weights that hold y_embedding, or with null='empty'"
    " and text= its text encoder; or name a negative"
)


@pytest.mark.parametrize("words", [{}, {"guide": "4:2,2:2"}, {"packing": "auto"}], ids=str)
def test_to_be_guided_by_nothing_is_refused_before_anything_is_compiled(
    bare: fd.FlexiDiT, texts: list, monkeypatch: pytest.MonkeyPatch, words: dict[str, Any]
) -> None:
    monkeypatch.setattr(Engine, "run", lambda *_: pytest.fail("evaluated"))
    guided = SampleSpec(steps=4, guidance=2.0, **words)
    for specs in (guided, [SampleSpec(steps=2, guidance=1.0), guided]):
        for run in (bare.sampler.start, bare.sampler.batches):
            with pytest.raises(fd.UserError) as caught:
                run(texts[:2], specs)
            assert str(caught.value) == NOTHING
    with pytest.raises(fd.UserError, match=r"^negative: this model has nothing that stands for no text; "):
        bare.sampler.start(texts[:2], guided, [None])


def test_what_no_text_guides_is_drawn_without_one(bare: fd.FlexiDiT, texts: list) -> None:
    """Unguided, guided by a weaker mode, or away from a negative: none of them reads no text."""
    words = {"steps": 2, "decode": False, "progress": False}
    for more in ({"guidance": 1.0}, {"guidance": 2.0, "guide": "4:2"}, {"guidance": 2.0, "negative": [texts[1]]}):
        assert np.isfinite(bare.sample(texts[:2], **words, **more)).all(), more


@pytest.mark.parametrize(
    "mask", [np.ones((2, 4), bool), np.ones((2, 4), int), np.uint8([[1, 1, 1, 0], [1, 0, 0, 0]]), None]
)
def test_a_mask_of_booleans_or_numbers_or_none(bare: fd.FlexiDiT, texts: list, mask: np.ndarray | None) -> None:
    """The same as the rows of tokens that it says are there."""
    tokens = np.stack([texts[0][:4], texts[0][4:8]])
    cond = {"tokens": tokens} if mask is None else {"tokens": tokens, "mask": mask}
    rows = tokens if mask is None else [row[which == 1] for row, which in zip(tokens, mask)]
    words = {"steps": 2, "guidance": 2.0, "decode": False, "progress": False, "negative": [texts[1]]}
    np.testing.assert_array_equal(bare.sample(cond, **words), bare.sample([*rows], **words))
