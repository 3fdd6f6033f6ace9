"""Modes as DiTs of the published layouts: the same function, back and forth to the bit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.main import main

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "golden" / "dit_tiny.safetensors"
CONFIG = f"--config={ROOT / 'configs' / 'convert.py'}"


@pytest.mark.parametrize("adapters", [None, 4])
@pytest.mark.parametrize("patch", [2, 4])
def test_a_mode_exports_by_itself(
    dit: fd.FlexiDiT, golden: dict[str, np.ndarray], tmp_path: Path, patch: int, adapters: int | None
) -> None:
    flex = dit.flexify((2, 4), adapters=adapters)
    rng = np.random.default_rng(0)
    modes = jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype("f"), flex.params["modes"])
    flex = replace(flex, params={**flex.params, "modes": modes})
    flex.export(tmp_path / "mode.safetensors", patch)
    alone = fd.load(tmp_path / "mode.safetensors")
    assert alone.patches == ((1, patch, patch),)
    ours = flex.predict(golden["x"], golden["t"], golden["y"], patch=patch)
    theirs = alone.predict(golden["x"], golden["t"], golden["y"])
    assert np.abs(ours.output - theirs.output).max() <= 2e-6 * np.abs(ours.output).max()


def test_through_diffusers_and_back_to_the_bit(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path / "folder")
    fd.load(tmp_path / "folder").export(tmp_path / "again.safetensors")
    before, after = load_file(TINY), load_file(tmp_path / "again.safetensors")
    assert set(before) == set(after)
    for key in before:
        np.testing.assert_array_equal(before[key], after[key], err_msg=key)


def test_tensors_of_a_diffusers_folder_are_those_of_their_names(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    """Where shapes would not tell them apart."""
    dit.export(tmp_path)
    ours, published = load_file(tmp_path / "diffusion_pytorch_model.safetensors"), load_file(TINY)
    d = dit.model.width
    for i in range(dit.model.depth):
        ins, out = f"blocks.{i}.", f"transformer_blocks.{i}."
        for leaf in ("weight", "bias"):
            for n, name in enumerate("qkv"):  # query, key, value, from above
                rows = published[f"{ins}attn.qkv.{leaf}"][n * d : (n + 1) * d]
                np.testing.assert_array_equal(ours[f"{out}attn1.to_{name}.{leaf}"], rows, err_msg=name)
            np.testing.assert_array_equal(ours[f"{out}attn1.to_out.0.{leaf}"], published[f"{ins}attn.proj.{leaf}"])
            time = f"{out}norm1.emb.timestep_embedder.linear"
            for n in (0, 2):
                layer = ours[f"{time}_{n // 2 + 1}.{leaf}"]
                np.testing.assert_array_equal(layer, published[f"t_embedder.mlp.{n}.{leaf}"])


def test_a_sharded_folder_is_read(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    names = sorted(tensors)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, keys in halves.items():
        save_file({key: tensors[key] for key in keys}, tmp_path / file)
    index = {"weight_map": {key: file for file, keys in halves.items() for key in keys}}
    (tmp_path / f"{weights.name}.index.json").write_text(json.dumps(index))
    weights.unlink()
    jax.tree.map(np.testing.assert_array_equal, fd.load(tmp_path).params, dit.params)
    index["weight_map"]["x"] = "../outside.safetensors"
    (tmp_path / f"{weights.name}.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="names files that are not weights beside it"):
        fd.load(tmp_path)


def test_an_older_folder_is_read(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path / "transformer")
    file = tmp_path / "transformer" / "config.json"
    config = json.loads(file.read_text()) | {"_class_name": "Transformer2DModel", "cross_attention_dim": None}
    file.write_text(json.dumps(config))
    jax.tree.map(np.testing.assert_array_equal, fd.load(tmp_path).params, dit.params)
    file.write_text(json.dumps(config | {"norm_type": "ada_norm"}))
    with pytest.raises(UserError) as caught:
        fd.load(tmp_path)
    assert str(caught.value) == (
        f"{file.parent} is a Transformer2DModel with norm_type 'ada_norm', and no DiT, which has 'ada_norm_zero'"
    )


@pytest.mark.parametrize("bad", [None, "32", 0, 2.5, [32, 32], True])
def test_sizes_of_a_folder_are_whole_numbers(dit: fd.FlexiDiT, tmp_path: Path, bad: object) -> None:
    dit.export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text()) | {"sample_size": bad}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="must say sample_size as a positive whole number, got "):
        fd.load(tmp_path)


@pytest.mark.parametrize(
    ("key", "said", "is_so"),
    [
        ("patch_size", 4, 2),
        ("in_channels", 99, 4),
        ("out_channels", 4, 8),
        ("num_embeds_ada_norm", 3, 10),
        ("activation_fn", "relu", "gelu-approximate"),
        ("norm_type", "layer_norm", "ada_norm_zero"),
        ("attention_bias", False, True),
    ],
)
def test_a_config_that_says_another_network_is_refused(
    dit: fd.FlexiDiT, tmp_path: Path, key: str, said: object, is_so: object
) -> None:
    dit.export(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config[key] == is_so
    (tmp_path / "config.json").write_text(json.dumps(config | {key: said}))
    with pytest.raises(UserError) as caught:
        fd.load(tmp_path)
    where = f"{tmp_path / 'config.json'} says {key} is {said!r}, but the weights are of a DiT with {is_so!r}"
    assert str(caught.value) == where


def test_copies_that_differ_and_parts_that_do_not_fit_are_refused(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path)
    weights, sound = (
        tmp_path / "diffusion_pytorch_model.safetensors",
        dict(load_file(tmp_path / "diffusion_pytorch_model.safetensors")),
    )
    table = "transformer_blocks.{}.norm1.emb.class_embedder.embedding_table.weight"
    save_file({**sound, table.format(1): sound[table.format(1)] + 1}, weights)
    with pytest.raises(UserError, match=f"{table.format(0)} and .* are not alike"):
        fd.load(tmp_path)
    query = "transformer_blocks.0.attn1.to_q.weight"
    save_file({**sound, query: sound[query][:, :3].copy()}, weights)
    with pytest.raises(UserError, match=f"{query} and .* are not alike"):
        fd.load(tmp_path)
    save_file(sound, weights)
    config = json.loads((tmp_path / "config.json").read_text())
    for odd in ({"num_layers": 10**7}, {"num_layers": 2}, {"sample_size": 10**9}):
        (tmp_path / "config.json").write_text(json.dumps(config | odd))
        with pytest.raises(UserError, match=r"there are 3 blocks, and 4096 is the largest size"):
            fd.load(tmp_path)


@pytest.mark.parametrize("name", ["a.txt", "a.bin", "d.onnx", "A.PT"])
def test_an_ending_of_no_layout_is_refused(dit: fd.FlexiDiT, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=r"names no layout; write \.safetensors or \.pt, or a folder without"):
        dit.export(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_a_folder_stands_for_it(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path)
    found = fd.load(tmp_path / "diffusion_pytorch_model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found.params, dit.params)
    (tmp_path / "diffusion_pytorch_model.safetensors").rename(tmp_path / "diffusion_pytorch_model.fp16.safetensors")
    jax.tree.map(np.testing.assert_array_equal, fd.load(tmp_path).params, dit.params)
    (tmp_path / "diffusion_pytorch_model.fp16.safetensors").unlink()
    with pytest.raises(UserError, match=r"holds no weights; put diffusion_pytorch_model\.safetensors there"):
        fd.load(tmp_path)


def test_keys_of_a_folder_are_checked(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["extra"] = tensors.pop("proj_out_1.bias")
    save_file(tensors, weights)
    with pytest.raises(UserError, match=r"missing proj_out_1\.bias; unexpected extra"):
        fd.load(tmp_path)


def test_a_weak_mode_does_not_fit_diffusers(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"diffusers computes positions itself .* write \.safetensors"):
        flex.export(tmp_path / "weak", 4)
    assert not (tmp_path / "weak").exists()


def test_a_half_precision_file_loads(tmp_path: Path) -> None:
    save_file({key: value.astype(np.float16) for key, value in load_file(TINY).items()}, tmp_path / "half.safetensors")
    loaded = fd.load(tmp_path / "half.safetensors", num_heads=4)
    assert {leaf.dtype for leaf in jax.tree.leaves(loaded.params)} == {np.dtype(np.float32)}


def test_other_positions_are_refused(tmp_path: Path) -> None:
    state = load_file(TINY)
    save_file({**state, "pos_embed": state["pos_embed"][:, ::-1].copy()}, tmp_path / "odd.safetensors")
    with pytest.raises(UserError, match="pos_embed does not hold the sin-cos positions of a DiT"):
        fd.load(tmp_path / "odd.safetensors", num_heads=4)


def test_the_convert_mode(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [CONFIG, "--mode=convert", f"--config.convert.source={TINY}"]
    out = tmp_path / "flex"
    assert main([*words, f"--config.convert.target={out}", "--config.convert.layout=flexidit_jax",
                 "--config.convert.patches=2,4"]) == 0  # fmt: skip
    assert fd.load(out).patches == ((1, 2, 2), (1, 4, 4))
    weak = [CONFIG, "--mode=convert", f"--config.convert.source={out}", "--config.convert.patch=4"]
    assert main([*weak, f"--config.convert.target={tmp_path / 'weak.safetensors'}"]) == 0
    assert fd.load(tmp_path / "weak.safetensors").patches == ((1, 4, 4),)
    capsys.readouterr()
    for extra, message in (
        ([], "convert.target is not set"),
        ([f"--config.convert.target={tmp_path}/x", "--config.convert.layout=published"], "does not suit"),
        (["--config.convert.layout=onnx"], "convert.layout must be one of published, diffusers, flexidit_jax"),
    ):
        assert main([*words, *extra]) == 2
        assert message in capsys.readouterr().err


def test_the_convert_mode_takes_the_weights_that_are_asked_for(tmp_path: Path) -> None:
    state = load_file(TINY)
    other = {key: value + np.float32(key != "pos_embed") for key, value in state.items()}
    both = {f"ema.{key}": value for key, value in state.items()} | {f"model.{key}": other[key] for key in state}
    save_file(both, tmp_path / "both.safetensors", {"num_heads": "4"})
    words = [CONFIG, "--mode=convert", f"--config.convert.source={tmp_path / 'both.safetensors'}"]
    for which, expected in (("raw", other), ("ema", state), ("None", state)):
        out = tmp_path / f"{which}.safetensors"
        assert main([*words, f"--out={out}", f"--config.convert.weights={which}"]) == 0
        np.testing.assert_array_equal(load_file(out)["final_layer.linear.bias"], expected["final_layer.linear.bias"])
    assert main([*words, f"--out={tmp_path / 'x.safetensors'}", "--config.convert.weights=nonsense"]) == 2
    assert not (tmp_path / "x.safetensors").exists()


def test_a_wan_goes_both_ways_to_the_bit(wan_pipeline: Path, tmp_path: Path) -> None:
    """A folder of diffusers, a file by the names of its repository, as ComfyUI has it too."""
    flex = fd.load(wan_pipeline).flexify([(1, 2, 2), (1, 4, 4)], adapters=2)
    flex.export(tmp_path / "folder")
    before, after = (
        load_file(root / "diffusion_pytorch_model.safetensors")
        for root in (wan_pipeline / "transformer", tmp_path / "folder")
    )
    assert set(before) == set(after)
    flex.export(tmp_path / "wan.safetensors", patch=(1, 2, 2))
    theirs = load_file(tmp_path / "wan.safetensors")
    assert "blocks.1.self_attn.q.weight" in theirs and len(theirs) == len(before)
    prefixed = {f"model.diffusion_model.{name}": array for name, array in theirs.items()}
    save_file(prefixed, tmp_path / "comfy.safetensors", {"num_heads": "2"})
    for source in ("folder", "wan.safetensors", "comfy.safetensors"):
        fd.load(tmp_path / source).export(tmp_path / f"{source}-again")
        again = load_file(tmp_path / f"{source}-again" / "diffusion_pytorch_model.safetensors")
        for key in before:
            np.testing.assert_array_equal(before[key], again[key], err_msg=key)
            np.testing.assert_array_equal(before[key], after[key], err_msg=key)
    for name in ("weak", "weak.safetensors"):
        with pytest.raises(
            UserError, match=r"^no published layout holds mode 4 of a Wan, .*; save\(\) holds all modes$"
        ):
            flex.export(tmp_path / name, patch=4)
        assert not (tmp_path / name).exists()


def test_the_convert_mode_writes_a_wan(wan_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = wan_pipeline / "transformer"
    for layout, name in (("published", "wan.safetensors"), ("diffusers", "folder"), ("flexidit_jax", "flex")):
        words = {"source": source, "target": tmp_path / name, "layout": layout}
        words |= {"patches": "(1,2,2),(2,2,2)"} if layout == "flexidit_jax" else {}
        flags = [f"--config.convert.{key}={value}" for key, value in words.items()]
        assert main([CONFIG, "--mode=convert", *flags]) == 0, capsys.readouterr().err
        source = tmp_path / name
    assert fd.load(tmp_path / "flex").patches == ((1, 2, 2), (2, 2, 2))
    flags = [f"--config.convert.source={tmp_path / 'flex'}", "--config.convert.patch=2x2x2", f"--out={tmp_path / 'no'}"]
    capsys.readouterr()
    assert main([CONFIG, "--mode=convert", *flags, "--config.convert.layout=diffusers"]) == 2
    assert "no published layout holds mode 2x2x2 of a Wan" in capsys.readouterr().err
