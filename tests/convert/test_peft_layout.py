"""A mode's adapters as a folder of PEFT, and such folders read: to a mode where it is one, else merged."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors
from flexidit_jax.convert.peft_layout import CONFIG, OWN, WEIGHTS
from flexidit_jax.main import main
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.flexify import at

GOLDEN = Path(__file__).parents[1] / "golden"
PIXART, ROOT = GOLDEN / "pixart_tiny.safetensors", Path(__file__).parents[2]
WEAK = (1, 4, 4)
BLOCKS = "base_model.model.transformer_blocks"
FIRST = f"{BLOCKS}.0.attn1.to_q.lora_A.weight"


@pytest.fixture(scope="module")
def base() -> fd.FlexiDiT:
    return fd.load(PIXART)


@pytest.fixture(scope="module")
def adapted(base: fd.FlexiDiT) -> fd.FlexiDiT:
    """A mode of rank 3, nothing of it zero."""
    flex = base.flexify((2, 4), adapters=3)
    rng = np.random.default_rng(0)
    modes = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 4, flex.params["modes"])
    return dataclasses.replace(flex, params={**flex.params, "modes": modes})


@pytest.fixture
def folder(adapted: fd.FlexiDiT, tmp_path: Path) -> Path:
    adapted.export(tmp_path / "lora", patch=4, adapters_only=True)
    return tmp_path / "lora"


def test_a_mode_is_there_and_back_to_the_bit(
    base: fd.FlexiDiT, adapted: fd.FlexiDiT, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for lent in (base, PIXART, adapted):
        back = fd.load(folder, base=lent)
        assert back.patches == adapted.patches
        jax.tree.map(np.testing.assert_array_equal, back.params, adapted.params)
    assert "holds all of its weights" not in capsys.readouterr().err
    adapted.export(folder, patch=4, adapters_only=True)  # the same may be written again


def test_names_and_formula_are_those_of_peft(adapted: fd.FlexiDiT, folder: Path) -> None:
    state, config = load_file(folder / WEIGHTS), json.loads((folder / CONFIG).read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 3, 3)
    assert len(state) == 2 * 6 * 2 and all(name.startswith(BLOCKS) for name in state)
    np.testing.assert_array_equal(state[FIRST], state[FIRST.replace("to_q", "to_k")])
    assert state[FIRST].shape == (3, 36)
    plain = at(adapted.params, WEAK)["blocks"]
    ours = merged({"blocks": plain})["blocks"]
    places = {"attn1.to_k": ("attention", "qkv", slice(36, 72)), "ff.net.2": ("mlp", "fc2", slice(None))}
    for module, (part, layer, columns) in places.items():
        assert module in config["target_modules"]
        a, b = (state[f"{BLOCKS}.1.{module}.lora_{letter}.weight"] for letter in "AB")
        change = (ours[part][layer]["kernel"] - plain[part][layer]["kernel"])[1][:, columns]
        np.testing.assert_allclose(change, (b @ a).T, atol=1e-5)


def foreign(folder: Path, pairs: dict[str, tuple[np.ndarray, np.ndarray]], **change: Any) -> Path:
    """A folder as PEFT writes one."""
    folder.mkdir(exist_ok=True)
    state = {f"base_model.model.{module}.lora_A.weight": a for module, (a, _) in pairs.items()}
    state |= {f"base_model.model.{module}.lora_B.weight": b for module, (_, b) in pairs.items()}
    save_file(state, folder / WEIGHTS)
    (folder / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 6, "bias": "none"} | change))
    return folder


def drawn(out: int, into: int, rank: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rank, into)).astype(np.float32), rng.normal(size=(out, rank)).astype(np.float32)


@pytest.mark.parametrize(
    ("module", "path", "columns", "sizes"),
    [
        ("transformer_blocks.1.attn1.to_v", "blocks/attention/qkv", slice(72, 108), (36, 36)),
        ("transformer_blocks.1.attn2.to_k", "blocks/cross_attention/k", slice(None), (36, 36)),
        ("transformer_blocks.1.ff.net.0.proj", "blocks/mlp/fc1", slice(None), (144, 36)),
        ("caption_projection.linear_1", "conditioner/fc1", slice(None), (36, 24)),
        ("adaln_single.linear", "projection/blocks", slice(None), (216, 36)),
        ("adaln_single.emb.timestep_embedder.linear_2", "timestep/fc2", slice(None), (36, 36)),
    ],
)
@pytest.mark.parametrize(("rslora", "scale"), [(False, 3), (True, 6 / 2**0.5)])
def test_that_of_others_is_merged(
    base: fd.FlexiDiT,
    tmp_path: Path,
    module: str,
    path: str,
    columns: slice,
    sizes: tuple[int, int],
    rslora: bool,
    scale: float,
) -> None:
    a, b = drawn(*sizes)
    flex = fd.load(foreign(tmp_path / "lora", {module: (a, b)}, use_rslora=rslora), base=base)
    assert flex.patches == base.patches and flex.model == base.model

    def kernel(params: Any) -> np.ndarray:
        for key in ("trunk", *path.split("/"), "kernel"):
            params = params[key]
        return params[1] if path.startswith("blocks") else params

    change = np.zeros_like(kernel(base.params))
    change[:, columns] = scale * (b @ a).T
    np.testing.assert_allclose(kernel(flex.params) - kernel(base.params), change, atol=1e-5)
    same = jax.tree.map(lambda x, y: bool(np.array_equal(x, y)), flex.params, base.params)
    assert sum(not leaf for leaf in jax.tree.leaves(same)) == 1


Q = "transformer_blocks.0.attn1.to_q"


@pytest.mark.parametrize(
    ("module", "sizes", "config", "message"),
    [
        (Q, (36, 36), {"peft_type": "IA3"}, "says peft_type is 'IA3', and 'LORA' alone is read"),
        (Q, (36, 36), {"use_dora": True}, "says use_dora is True, and False alone is read"),
        (Q, (36, 36), {"alpha_pattern": {"q": 1}}, "says alpha_pattern, which is not read; adapters of one alpha"),
        (Q, (36, 36), {"lora_alpha": "6"}, "must say lora_alpha as a number, got '6'"),
        (Q, (35, 36), {}, f"{Q} is [36, 36], its A [2, 36], B [35, 2]"),
        (Q.replace("0", "2"), (36, 36), {}, "holds LoRA of transformer_blocks.2.attn1.to_q, which base= has not"),
        ("proj_out", (32, 36), {}, "holds LoRA of proj_out, which base= has not, or cannot have merged"),
    ],
)
def test_another_formula_or_layer_is_refused(
    base: fd.FlexiDiT, tmp_path: Path, module: str, sizes: tuple[int, int], config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        fd.load(foreign(tmp_path / "lora", {module: drawn(*sizes)}, **config), base=base)
    assert "\n" not in str(caught.value)


def test_a_convolution_is_refused(base: fd.FlexiDiT, tmp_path: Path) -> None:
    pair = np.ones((2, 4, 2, 2), np.float32), np.ones((36, 2, 1, 1), np.float32)
    with pytest.raises(UserError, match=r"^base_model.model.pos_embed.proj.lora_A.weight of .* is no A or B of a LoRA"):
        fd.load(foreign(tmp_path / "lora", {"pos_embed.proj": pair}), base=base)


def changed(change: Callable[[dict[str, np.ndarray]], Any], file: Path) -> None:
    state, words = read_safetensors(file)
    change(state)
    save_file(state, file, words)


def without_layer(state: dict[str, np.ndarray]) -> None:
    del state[FIRST], state[FIRST.replace("_A", "_B")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop(FIRST), r"lacks A or B of transformer_blocks\.0\.attn1\.to_q$"),
        (without_layer, r"lacks the LoRA of transformer_blocks\.0\.attn1\.to_q$"),
        (lambda state: state.update({FIRST: 2 * state[FIRST]}), r"A of attn1\.to_q and .* differ, and one layer here"),
        (
            lambda state: state.update({name.replace("attn1", "attn2"): part for name, part in list(state.items())}),
            r"holds LoRA of transformer_blocks\.\d\.attn2.*, which a mode has none of$",
        ),
    ],
)
def test_a_mode_that_was_changed_is_refused(base: fd.FlexiDiT, folder: Path, change: Any, message: str) -> None:
    changed(change, folder / WEIGHTS)
    with pytest.raises(UserError, match=message):
        fd.load(folder, base=base)


def test_it_wants_its_base(base: fd.FlexiDiT, folder: Path) -> None:
    with pytest.raises(UserError, match=r"holds adapters only; pass the model they were made for as base=$"):
        fd.load(folder)
    with pytest.raises(UserError, match=r"was made for another base model \(fingerprint \w{12}, base= has \w{12}\)$"):
        fd.load(folder, base=GOLDEN / "pixart_micro_tiny.safetensors")
    with pytest.raises(UserError, match=r"^mode 2 has no adapters; export it without adapters_only$"):
        base.export(folder.parent / "none", adapters_only=True)
    (folder / WEIGHTS).unlink()
    with pytest.raises(UserError, match=r"holds no adapter_model\.safetensors; save the adapters as safetensors$"):
        fd.load(folder, base=base)


def test_another_that_is_there_is_kept(adapted: fd.FlexiDiT, folder: Path) -> None:
    changed(lambda state: state.update({"patch_embedding": state["patch_embedding"] + 1}), folder / OWN)
    with pytest.raises(UserError, match=r"mode\.safetensors is of another model .*; overwrite=True replaces it"):
        adapted.export(folder, patch=4, adapters_only=True)
    adapted.export(folder, patch=4, adapters_only=True, overwrite=True)


def test_the_command_writes_and_merges(adapted: fd.FlexiDiT, tmp_path: Path) -> None:
    adapted.save(tmp_path / "adapted")
    words = ["--mode=convert", f"--config={ROOT / 'configs' / 'convert.py'}"]

    def convert(**keys: object) -> int:
        return main([*words, *(f"--config.convert.{key}={value}" for key, value in keys.items())])

    assert convert(source=tmp_path / "adapted", target=tmp_path / "lora", layout="peft", patch=4) == 0
    assert convert(source=tmp_path / "lora", base=PIXART, target=tmp_path / "weak.safetensors", patch=4) == 0
    adapted.export(tmp_path / "direct.safetensors", patch=4)
    ours, theirs = load_file(tmp_path / "weak.safetensors"), load_file(tmp_path / "direct.safetensors")
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)


def test_a_mode_of_another_alpha_is_scaled(base: fd.FlexiDiT, adapted: fd.FlexiDiT, folder: Path) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | {"lora_alpha": 6}))
    back, there = (
        flex.params["modes"]["1x4x4"]["blocks"]["mlp"]["fc1"] for flex in (fd.load(folder, base=base), adapted)
    )
    np.testing.assert_array_equal(back["lora_b"], 2 * there["lora_b"])
    np.testing.assert_array_equal(back["lora_a"], there["lora_a"])


def test_a_dit_has_adapters_too(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    adapted = dit.flexify((2, 4), adapters=2)
    adapted.export(tmp_path / "lora", patch=4, adapters_only=True)
    jax.tree.map(np.testing.assert_array_equal, fd.load(tmp_path / "lora", base=dit).params, adapted.params)
    d, (a, b) = 64, drawn(384, 64)
    flex = fd.load(foreign(tmp_path / "theirs", {"transformer_blocks.2.norm1.linear": (a, b)}), base=dit)
    kernels = [one.params["trunk"]["blocks"]["modulation"]["kernel"] for one in (flex, dit)]
    assert kernels[0].shape == (3, d, 6 * d)
    np.testing.assert_allclose(kernels[0][2] - kernels[1][2], 3 * (b @ a).T, atol=1e-5)
    np.testing.assert_array_equal(kernels[0][:2], kernels[1][:2])


def test_leaves_of_a_mode_that_are_missing_are_named(base: fd.FlexiDiT, folder: Path) -> None:
    changed(lambda state: state.pop("blocks/norm1/gain"), folder / OWN)
    with pytest.raises(UserError, match=r"does not hold this model: missing modes/1x4x4/blocks/norm1/gain$"):
        fd.load(folder, base=base)


def test_several_layers_are_merged_at_once_and_the_base_is_left_alone(base: fd.FlexiDiT, tmp_path: Path) -> None:
    names = [f"transformer_blocks.{i}.attn1.to_{part}" for i in range(2) for part in "qv"]
    before = np.array(base.params["trunk"]["blocks"]["attention"]["qkv"]["kernel"])
    flex = fd.load(foreign(tmp_path / "lora", {name: drawn(36, 36) for name in names}), base=base)
    a, b = drawn(36, 36)
    after = np.array(flex.params["trunk"]["blocks"]["attention"]["qkv"]["kernel"])
    for columns in (slice(36), slice(72, 108)):
        np.testing.assert_allclose((after - before)[..., columns], np.stack([3 * (b @ a).T] * 2), atol=1e-5)
    np.testing.assert_array_equal(after[..., 36:72], before[..., 36:72])
    np.testing.assert_array_equal(base.params["trunk"]["blocks"]["attention"]["qkv"]["kernel"], before)
