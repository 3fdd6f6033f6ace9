"""A mode's adapters as a lone file, and such files of others: of every spelling, merged into a Wan."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import open_tensors
from flexidit_jax.common.trees import flatten
from flexidit_jax.convert.lora_file import METADATA
from flexidit_jax.convert.read_model import files_of_model
from flexidit_jax.main import main
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.flexify import at

GOLDEN = Path(__file__).parents[1] / "golden"
PIXART, ROOT = GOLDEN / "pixart_tiny.safetensors", Path(__file__).parents[2]
WEAK = (2, 2, 2)
#: of a layer of a Wan: in the file of its repository, of diffusers, and where it lies here
LAYERS = {
    "blocks.1.self_attn.v": ("blocks.1.attn1.to_v", "blocks/attention/qkv", slice(80, 120), (40, 40)),
    "blocks.1.self_attn.o": ("blocks.1.attn1.to_out.0", "blocks/attention/proj", slice(None), (40, 40)),
    "blocks.1.cross_attn.k": ("blocks.1.attn2.to_k", "blocks/cross_attention/k", slice(None), (40, 40)),
    "blocks.1.ffn.0": ("blocks.1.ffn.net.0.proj", "blocks/mlp/fc1", slice(None), (72, 40)),
    "blocks.1.ffn.2": ("blocks.1.ffn.net.2", "blocks/mlp/fc2", slice(None), (40, 72)),
    "text_embedding.0": (
        "condition_embedder.text_embedder.linear_1",
        "conditioner/fc1",
        slice(None),
        (40, 32),
    ),
}


@pytest.fixture(scope="module")
def base(wan_pipeline: Path) -> fd.FlexiDiT:
    return fd.load(wan_pipeline / "transformer", length=12)


@pytest.fixture(scope="module")
def adapted(base: fd.FlexiDiT) -> fd.FlexiDiT:
    """A mode of rank 3, nothing of it zero."""
    flex = base.flexify([(1, 2, 2), WEAK], adapters=3)
    rng = np.random.default_rng(0)
    modes = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 9, flex.params["modes"])
    return dataclasses.replace(flex, params={**flex.params, "modes": modes})


@pytest.fixture
def file(adapted: fd.FlexiDiT, tmp_path: Path) -> Path:
    adapted.export(tmp_path / "lora.safetensors", patch=WEAK, adapters_only=True)
    return tmp_path / "lora.safetensors"


@pytest.mark.parametrize("name", ["lora.safetensors", "lora"])
def test_a_mode_is_there_and_back_to_the_bit(
    base: fd.FlexiDiT, adapted: fd.FlexiDiT, tmp_path: Path, name: str
) -> None:
    """As a file, and as a folder of PEFT."""
    for _ in range(2):  # the same may be written again
        adapted.export(tmp_path / "out" / name, patch=WEAK, adapters_only=True)
    for place in (tmp_path / "out" / name, tmp_path / "out") if name.endswith("s") else (tmp_path / "out" / name,):
        back = fd.load(place, base=base)
        assert back.patches == adapted.patches
        jax.tree.map(np.testing.assert_array_equal, back.params, adapted.params)


def test_names_are_those_of_the_field(adapted: fd.FlexiDiT, file: Path) -> None:
    """q, k, v, o, ffn.0 and ffn.2 of every block; q, k and v have the same A, and alpha is r."""
    state = load_file(file)
    layers = ("self_attn.q", "self_attn.k", "self_attn.v", "self_attn.o", "ffn.0", "ffn.2")
    names = {
        f"diffusion_model.blocks.{i}.{layer}.lora_{letter}.weight"
        for i in (0, 1)
        for layer in layers
        for letter in "AB"
    }
    assert state.keys() == names
    assert open_tensors(file)[1] == {"format": "pt", "mode": "2x2x2"}
    first, second = (state[f"diffusion_model.blocks.0.self_attn.{part}.lora_A.weight"] for part in "qk")
    assert first.shape == (3, 40)
    np.testing.assert_array_equal(first, second)
    plain = at(adapted.params, WEAK)["blocks"]
    ours = merged({"blocks": plain})["blocks"]
    for layer, (_, path, columns, _) in LAYERS.items():
        if "cross" in layer or "text" in layer:
            continue
        _, part, name = path.split("/")
        a, b = (state[f"diffusion_model.{layer}.lora_{letter}.weight"] for letter in "AB")
        change = (ours[part][name]["kernel"] - plain[part][name]["kernel"])[1][:, columns]
        np.testing.assert_allclose(change, (b @ a).T, atol=1e-6)


def test_merged_it_is_what_runs_beside_the_kernels(base: fd.FlexiDiT, adapted: fd.FlexiDiT, file: Path) -> None:
    back = fd.load(file, base=base)
    x = np.random.default_rng(1).normal(size=(1, 4, 4, 4, 4)).astype(np.float32)
    text = {"tokens": np.random.default_rng(2).normal(size=(1, 12, 32)).astype(np.float32)}
    beside = back.predict(x, [500.0], text, patch=WEAK).output
    plain = merged(at(adapted.params, WEAK))
    model = back.model.sized(x.shape[1:]).at(WEAK)
    cond = {**text, "null": np.zeros(1, bool)}
    alone = jax.jit(model.apply)({"params": plain}, x, np.float32([500]), cond).output
    assert np.abs(np.asarray(beside - alone)).max() < 1e-6 * np.abs(np.asarray(beside)).max()


def drawn(out: int, into: int, rank: int = 2) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.normal(size=(rank, into)).astype(np.float32), rng.normal(size=(out, rank)).astype(np.float32)


def spelled(how: str, layer: str) -> dict[str, np.ndarray]:
    """A file of one layer, s = 3 where it says an alpha, 1 else."""
    diffusers, _, _, sizes = LAYERS[layer]
    a, b = drawn(*sizes)
    six = np.full((), 6, np.float32)
    return {
        "comfy": {f"diffusion_model.{layer}.lora_A.weight": a, f"diffusion_model.{layer}.lora_B.weight": b},
        "alpha": {
            f"diffusion_model.{layer}.lora_down.weight": a,
            f"diffusion_model.{layer}.lora_up.weight": b,
            f"diffusion_model.{layer}.alpha": six,
        },
        "plain": {f"{layer}.lora_A.default.weight": a, f"{layer}.lora_B.default.weight": b},
        "diffusers": {f"transformer.{diffusers}.lora_A.weight": a, f"transformer.{diffusers}.lora_B.weight": b},
        "both": {
            f"transformer.base_model.model.{diffusers}.lora_A.weight": a,
            f"transformer.base_model.model.{diffusers}.lora_B.weight": b,
        },
        "kohya": {
            f"lora_unet_{layer.replace('.', '_')}.lora_down.weight": a,
            f"lora_unet_{layer.replace('.', '_')}.lora_up.weight": b,
            f"lora_unet_{layer.replace('.', '_')}.alpha": six.reshape(1),
        },
    }[how]


@pytest.mark.parametrize(
    ("how", "scale"), [("comfy", 1), ("alpha", 3), ("plain", 1), ("diffusers", 1), ("both", 1), ("kohya", 3)]
)
def test_those_of_others_are_merged(base: fd.FlexiDiT, tmp_path: Path, how: str, scale: int) -> None:
    save_file(
        {key: array for layer in LAYERS for key, array in spelled(how, layer).items()}, tmp_path / "a.safetensors"
    )
    flex = fd.load(tmp_path / "a.safetensors", base=base)
    assert flex.patches == base.patches and flex.model == base.model
    before, after = (flatten(one.params["trunk"]) for one in (base, flex))
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved == {f"{path}/kernel" for _, path, _, _ in LAYERS.values()}
    for _, path, columns, sizes in LAYERS.values():
        a, b = drawn(*sizes)
        change = np.zeros_like(before[f"{path}/kernel"])
        change[(1,) * path.startswith("blocks")][:, columns] = scale * (b @ a).T
        np.testing.assert_allclose(after[f"{path}/kernel"] - before[f"{path}/kernel"], change, atol=1e-5)


def test_a_formula_in_the_metadata_holds(base: fd.FlexiDiT, tmp_path: Path) -> None:
    """As diffusers writes it."""
    layer = "blocks.1.ffn.0"
    a, b = drawn(72, 40)

    def change(**said: Any) -> np.ndarray:
        words = {f"transformer.{key}": value for key, value in said.items()}
        save_file(spelled("diffusers", layer), tmp_path / "theirs.safetensors", {METADATA: json.dumps(words)})
        flex = fd.load(tmp_path / "theirs.safetensors", base=base)
        kernels = [one.params["trunk"]["blocks"]["mlp"]["fc1"]["kernel"][1] for one in (flex, base)]
        return kernels[0] - kernels[1]

    np.testing.assert_allclose(change(r=2, lora_alpha=8), 4 * (b @ a).T, atol=1e-5)
    np.testing.assert_allclose(change(lora_alpha=8, use_rslora=True), 8 / 2**0.5 * (b @ a).T, atol=1e-5)
    with pytest.raises(UserError, match=r"^the metadata of .* says use_dora is True, and False alone is read$"):
        change(lora_alpha=8, use_dora=True)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (spelled("comfy", "blocks.1.ffn.0") | {"diffusion_model.blocks.1.ffn.0.diff_b": np.ones(72, np.float32)},
         "diffusion_model.blocks.1.ffn.0.diff_b of {} is no A or B of a LoRA of linear layers, which alone is read"),
        ({name.replace("blocks.1.cross_attn.k", "blocks.0.cross_attn.k_img"): array
          for name, array in spelled("comfy", "blocks.1.cross_attn.k").items()},
         "{} holds LoRA of blocks.0.cross_attn.k_img, which base= has not, or cannot have merged"),
        ({name: array for name, array in spelled("kohya", "blocks.1.ffn.0").items() if "down" in name},
         "{} lacks A or B of blocks.1.ffn.net.0.proj"),
    ],
)  # fmt: skip
def test_others_are_refused(base: fd.FlexiDiT, tmp_path: Path, state: dict[str, np.ndarray], message: str) -> None:
    path = tmp_path / "theirs.safetensors"
    save_file(state, path)
    with pytest.raises(UserError) as caught:
        fd.load(path, base=base)
    assert str(caught.value) == message.format(path)


def test_it_wants_its_base_and_what_is_its_own(
    base: fd.FlexiDiT, adapted: fd.FlexiDiT, file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"holds adapters only; pass the model they were made for as base=$"):
        fd.load(file)
    with pytest.raises(UserError, match=r"was made for another base model \(fingerprint \w{12}, base= has \w{12}\)$"):
        fd.load(file, base=PIXART)
    with pytest.raises(UserError, match=r"^mode 2 has no adapters; export it without adapters_only$"):
        adapted.export(tmp_path / "none.safetensors", adapters_only=True)
    with pytest.raises(
        UserError, match=r"lora\.pt names no layout; write \.safetensors, or a folder without an ending$"
    ):
        adapted.export(tmp_path / "lora.pt", patch=WEAK, adapters_only=True)
    before = load_file(file)
    save_file({name: array + 1 for name, array in before.items()}, file, open_tensors(file)[1])
    with pytest.raises(UserError, match=r"lora\.safetensors is of another model .*; overwrite=True replaces it"):
        adapted.export(file, patch=WEAK, adapters_only=True)
    save_file(before, file, open_tensors(file)[1])
    own = tmp_path / "lora.mode.safetensors"
    state = load_file(own)
    save_file({name: array + 1 for name, array in state.items()}, own, open_tensors(own)[1])
    with pytest.raises(UserError, match=r"lora\.mode\.safetensors is of another model .*; overwrite=True replaces it"):
        adapted.export(file, patch=WEAK, adapters_only=True)
    adapted.export(file, patch=WEAK, adapters_only=True, overwrite=True)
    own.unlink()
    with pytest.raises(UserError) as caught:
        fd.load(file, base=base)
    said = f"{file} is of mode 2x2x2, and lacks lora.mode.safetensors beside it, which is its own"
    assert str(caught.value) == said
    names = ["README.md", "lora.safetensors", "lora.mode.safetensors"]
    assert files_of_model(names) == names[1:]


@pytest.mark.parametrize("apart", [False, True])
def test_a_base_that_is_named_is_read_as_it_is_loaded(wan_pipeline: Path, tmp_path: Path, apart: bool) -> None:
    """With what stands for no text, which is a part of what adapters were made for."""
    flex = fd.load(wan_pipeline).flexify([(1, 2, 2), WEAK], adapters=2)
    path = tmp_path / ("lora.safetensors" if apart else "saved")
    if apart:
        flex.export(path, patch=WEAK, adapters_only=True)
    else:
        flex.save(path, adapters_only=True)
    back = fd.load(path, base=wan_pipeline)
    jax.tree.map(np.testing.assert_array_equal, back.params, flex.params)


def test_a_pixart_has_them_by_the_names_of_diffusers(tmp_path: Path) -> None:
    flex = fd.load(PIXART).flexify((2, 4), adapters=2)
    flex.export(tmp_path / "lora.safetensors", patch=4, adapters_only=True)
    assert "transformer.transformer_blocks.0.attn1.to_q.lora_A.weight" in load_file(tmp_path / "lora.safetensors")
    back = fd.load(tmp_path / "lora.safetensors", base=PIXART)
    jax.tree.map(np.testing.assert_array_equal, back.params, flex.params)


def test_the_command_writes_and_merges(
    adapted: fd.FlexiDiT, wan_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapted.save(tmp_path / "adapted")
    save_file(spelled("kohya", "blocks.1.ffn.0"), tmp_path / "theirs.safetensors")

    def convert(**keys: object) -> int:
        words = [f"--config.convert.{key}={value}" for key, value in keys.items()]
        return main(["--mode=convert", f"--config={ROOT / 'configs' / 'convert.py'}", *words])

    target = tmp_path / "lora.safetensors"
    assert convert(source=tmp_path / "adapted", target=target, layout="lora", patch="2x2x2") == 0
    assert len(load_file(target)) == 24
    merging = {"source": tmp_path / "theirs.safetensors", "base": wan_pipeline / "transformer"}
    assert convert(**merging, target=tmp_path / "merged.safetensors") == 0
    assert "blocks.1.ffn.0.weight" in load_file(tmp_path / "merged.safetensors")
    capsys.readouterr()
    for name, layout, wanted in (("lora", "lora", "a .safetensors file"), ("lora.pt", "lora", "a .safetensors file")):
        assert convert(source=tmp_path / "adapted", target=tmp_path / name, layout=layout) == 2
        said = f"convert.target={tmp_path / name} does not suit convert.layout={layout}, which writes {wanted}"
        assert re.search(re.escape(said), capsys.readouterr().err)
