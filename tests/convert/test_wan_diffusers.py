"""A Wan's pipeline as diffusers writes it: loaded with its parts, sampled, written; what is refused."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.api import FlexiDiT
from flexidit_jax.codecs.wan_vae import Codec
from flexidit_jax.common import weights
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.convert.wan_diffusers import read_folder, write_folder
from flexidit_jax.convert.wan_layout import Sizes, write_wan
from flexidit_jax.diffusion.flow import Process

GOLDEN = Path(__file__).parents[1] / "golden"
WEIGHTS = "diffusion_pytorch_model.safetensors"
STATE, METADATA = read_safetensors(GOLDEN / "wan_tiny.safetensors")
CONFIG = json.loads(METADATA["config"]) | {"_class_name": "WanTransformer3DModel"}


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    for part, file, config in (
        ("transformer", "wan_tiny", CONFIG),
        ("vae", "wan_vae_tiny", json.loads(read_safetensors(GOLDEN / "wan_vae_tiny.safetensors")[1]["config"])),
    ):
        (tmp_path / part).mkdir()
        shutil.copy(GOLDEN / f"{file}.safetensors", tmp_path / part / WEIGHTS)
        (tmp_path / part / "config.json").write_text(json.dumps(config))
    (tmp_path / "scheduler").mkdir()
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"flow_shift": 5.0}')
    return tmp_path


def test_a_pipeline(pipeline: Path) -> None:
    flex = fd.load(pipeline, length=12)
    assert flex.process == Process(shift=5.0) and flex.codec == Codec(str(pipeline)) and flex.text is None
    assert (flex.model.num_heads, flex.patches) == (2, ((1, 2, 2),))
    golden = np.load(GOLDEN / "wan_tiny.npz")
    found = flex.predict(np.moveaxis(golden["latents"], 1, -1), golden["timestep"], {"tokens": golden["text"]})
    np.testing.assert_allclose(found.output, np.moveaxis(golden["output"], 1, -1), atol=2e-5)
    meant = flex.meant()
    assert (meant.steps, meant.guidance, dict(meant.solver)) == (50, 5.0, {"name": "unipc", "grid": "diffusers"})
    assert fd.load(pipeline, process={"name": "flow", "shift": 8.0}).process.shift == 8.0


@pytest.mark.parametrize(("solver", "grid"), [("unipc", "diffusers"), ("euler", "diffusers_euler")])
def test_a_guided_chain(pipeline: Path, solver: str, grid: str) -> None:
    """Guidance 5 away from the features of no text, six steps, against another implementation's loop."""
    golden = np.load(GOLDEN / "wan_tiny.npz")
    flex = fd.load(pipeline, length=12, process={"name": "flow", "shift": 3.0}).sized((3, 6, 8, 4))
    chain = flex.steps(
        {"tokens": golden["text"][:1]},
        negative={"tokens": golden["null_text"]},
        steps=6,
        guidance=5.0,
        solver={"name": solver, "grid": grid},
        noise=np.moveaxis(golden["noise"], 1, -1),
        seed=0,
    )
    after = [np.asarray(snapshot.x) for snapshot in chain]
    for number, expected in zip(golden["chain_kept"], golden[f"chain_{solver}"], strict=True):
        np.testing.assert_allclose(after[number], np.moveaxis(expected, 1, -1), atol=2e-5)


def test_clips_of_any_size_and_number_of_frames(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flex = fd.load(pipeline, length=12).sized((3, 4, 4, 4)).flexify([(1, 2, 2), (2, 2, 2), (1, 4, 4)])
    golden = np.load(GOLDEN / "wan_tiny.npz")
    ask = {"negative": {"tokens": golden["null_text"]}, "steps": 4, "progress": False}
    text = {"tokens": golden["text"][:1]}
    clip = flex.sample(text, frames=5, size=(32, 64), schedule="1x4x4:1,2x2x2:1,1x2x2:2", **ask)
    assert clip.shape == (1, 5, 32, 64, 3) and clip.dtype == np.uint8
    assert flex.flops(frames=5, size=(32, 64), steps=4).relative == 1
    budget = flex.plan(frames=9, budget=0.6, weak=(1, 4, 4), steps=10)
    assert {segment.cond_patch for segment in budget.segments} == {(1, 4, 4), (1, 2, 2)}
    capsys.readouterr()
    flex.plan(frames=13, steps=4)
    said = "note: 13 frames are more than the 9 that this model was trained at; its clips may repeat\n"
    assert capsys.readouterr().err == said
    for words, message in (
        ({"frames": 8}, "frames=8: a clip is of 4k + 1 frames; the nearest are 5 and 9"),
        ({"frames": 0}, "frames must be a positive number of frames, such as 81, got 0"),
        (
            {"size": (40, 64)},
            "size=(40, 64): sides must be multiples of 32x32 pixels, a patch of the weakest mode; the nearest are a"
            " height of 32 or 64 and a width of 64",
        ),
        ({"frames": 1}, "patch 2x2x2 does not divide the latent 1x4x4"),
    ):
        with pytest.raises(UserError) as caught:
            flex.plan(steps=4, **words)
        assert message in str(caught.value)


def test_a_lone_file(pipeline: Path, tmp_path: Path) -> None:
    flex = fd.load(pipeline / "transformer" / WEIGHTS)
    assert flex.process == Process(shift=3.0) and flex.model.conditioner.length == 512
    write_safetensors(tmp_path / "wan.safetensors", write_wan(flex.model, _plain(flex), repository=True), {})
    lone = fd.load(tmp_path / "wan.safetensors", num_heads=2)
    assert lone.model == flex.model and lone.codec is None


def test_there_and_back(pipeline: Path, tmp_path: Path) -> None:
    model, params = read_folder(pipeline / "transformer", None, Sizes())
    write_folder(tmp_path / "out", model, write_wan(model, params))
    again, _ = read_folder(tmp_path / "out", None, Sizes())
    assert again == model
    written, _ = read_safetensors(tmp_path / "out" / WEIGHTS)
    assert written.keys() == STATE.keys()
    with pytest.raises(UserError, match="config"):
        write_folder(tmp_path / "out", model.clone(num_heads=4), write_wan(model, params))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"image_dim": 1280}, "/config.json says image_dim is 1280, not None; a Wan 2.1 of texts would do"),
        ({"ffn_dim": 80}, "/config.json says ffn_dim is 80, but the weights are of a Wan with 72"),
        (
            {"_class_name": "WanVACETransformer3DModel"},
            " is a WanVACETransformer3DModel, which is not read; DiTTransformer2DModel, Transformer2DModel,"
            " PixArtTransformer2DModel, WanTransformer3DModel, WanModel are",
        ),
    ],
)
def test_another_config_is_refused(pipeline: Path, change: dict[str, object], said: str) -> None:
    root = pipeline / "transformer"
    (root / "config.json").write_text(json.dumps(CONFIG | change))
    for path in (pipeline, root, root / WEIGHTS):
        with pytest.raises(UserError) as caught:
            fd.load(path)
        assert str(caught.value) == f"{root}{said}"


def test_a_lone_file_is_refused_by_its_config(tmp_path: Path) -> None:
    """Beside it, or within."""
    other = CONFIG | {"_class_name": "WanVACETransformer3DModel"}
    write_safetensors(tmp_path / "inside.safetensors", STATE, {"config": json.dumps(other)})
    with pytest.raises(
        UserError, match=r"inside\.safetensors: its config is a WanVACETransformer3DModel, which is not"
    ):
        fd.load(tmp_path / "inside.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG | {"in_channels": 36}))
    write_safetensors(tmp_path / "beside.safetensors", STATE)
    with pytest.raises(UserError, match=r"its config says in_channels is 36, but the weights are of a Wan with 4$"):
        fd.load(tmp_path / "beside.safetensors")


def test_a_sharded_folder(pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written, read, written again; another model beside its shards is kept."""
    flex = fd.load(pipeline)
    monkeypatch.setattr(weights, "SHARD", 40_000)
    flex.export(tmp_path / "out")
    shards = sorted(file.name for file in (tmp_path / "out").glob("*.safetensors"))
    assert len(shards) > 2 and shards[0] == f"diffusion_pytorch_model-00001-of-{len(shards):05d}.safetensors"
    flex.export(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, fd.load(tmp_path / "out").params, flex.params)
    moved = jax.tree.map(lambda leaf: leaf + 1, flex.params["trunk"]["conditioner"])
    trunk = {**flex.params["trunk"], "conditioner": moved}
    bent = dataclasses.replace(flex, params={**flex.params, "trunk": trunk})
    with pytest.raises(UserError, match=r"-00001-of-0000\d\.safetensors is of another model .*; overwrite=True"):
        bent.export(tmp_path / "out")
    monkeypatch.setattr(weights, "SHARD", 10**9)
    bent.export(tmp_path / "out", overwrite=True)
    assert [file.name for file in (tmp_path / "out").iterdir() if "diffusion" in file.name] == [WEIGHTS]
    found = fd.load(tmp_path / "out").params["trunk"]["conditioner"]
    jax.tree.map(np.testing.assert_array_equal, found, moved)


def _plain(flex: FlexiDiT) -> dict:
    from flexidit_jax.models.flexify import at

    return at(flex.params, flex.patches[0])
