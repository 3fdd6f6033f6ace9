"""Live parity of Wan 2.1 with diffusers' own pipeline, and of LoRA with diffusers and PEFT; `make test-oracles`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common import weights
from flexidit_jax.convert.lora_names import WAN
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.flexify import at

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
pytest.importorskip("transformers")  # which diffusers wants for its pipelines
single_file_utils = pytest.importorskip("diffusers.loaders.single_file_utils")
load_file = pytest.importorskip("safetensors.torch").load_file

FEATURES, LENGTH, CHANNELS = 24, 12, 4
LATENT = (3, 6, 8)


def wan() -> Any:
    """diffusers' own model with nothing left at zero."""
    torch.manual_seed(0)
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=20,
        in_channels=CHANNELS,
        out_channels=CHANNELS,
        text_dim=FEATURES,
        freq_dim=32,
        ffn_dim=72,
        num_layers=2,
    ).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "table" not in name:
                parameter.copy_(parameter[0].numel() ** -0.5 * torch.randn_like(parameter))
            else:
                parameter.copy_(("norm" in name and "weight" in name) + 0.2 * torch.randn_like(parameter))
    return model


def vae() -> Any:
    """As narrow as may be, of the published sizes of a latent."""
    torch.manual_seed(0)
    return diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=CHANNELS, dim_mult=[1, 2, 2, 2], latents_mean=[0.1] * CHANNELS, latents_std=[2.0] * CHANNELS
    ).eval()


def drawn(*shape: int, seed: int = 1) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def last(clips: Any) -> np.ndarray:
    """[B, C, F, H, W] with channels last."""
    return np.moveaxis(clips.detach().numpy(), 1, -1)


def texts() -> tuple[Any, Any]:
    """Features of two texts of 12 and 5 tokens and of none, zero behind them."""
    there = torch.arange(LENGTH) < torch.tensor([[12], [5], [1]])
    features = drawn(3, LENGTH, FEATURES, seed=2) * there[..., None]
    return features[:2], features[2:]


@pytest.fixture(scope="module")
def model() -> Any:
    return wan()


@pytest.fixture(scope="module")
def ours(model: Any, tmp_path_factory: pytest.TempPathFactory) -> fd.FlexiDiT:
    folder = tmp_path_factory.mktemp("wan")
    model.save_pretrained(folder / "transformer")
    vae().save_pretrained(folder / "vae")
    return fd.load(folder, length=LENGTH).sized((*LATENT, CHANNELS))


#: by our solver: the scheduler of diffusers
SCHEDULERS = {
    "unipc": lambda shift: diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    ),
    "euler": lambda shift: diffusers.FlowMatchEulerDiscreteScheduler(shift=shift),
    "dpmpp_2m": lambda shift: diffusers.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    ),
}


@pytest.mark.parametrize(
    ("solver", "grid", "steps", "shift"),
    [
        ("unipc", "diffusers", 10, 5.0),
        ("unipc", "diffusers", 4, 3.0),
        ("euler", "diffusers_euler", 6, 8.0),
        ("dpmpp_2m", "wan", 6, 3.0),
    ],
)
def test_the_whole_pipeline(
    model: Any, ours: fd.FlexiDiT, tmp_path: Path, solver: str, grid: str, steps: int, shift: float
) -> None:
    """Guided chains of the powerful mode, for the same weights, noise and features; then decoded."""
    pipeline = diffusers.WanPipeline(None, None, vae(), SCHEDULERS[solver](shift), model)
    pipeline.set_progress_bar_config(disable=True)
    (features, none), noise = texts(), drawn(2, CHANNELS, *LATENT, seed=3)
    asked = {
        "prompt_embeds": features,
        "negative_prompt_embeds": none.repeat(2, 1, 1),
        "latents": noise,
        "height": 8 * LATENT[1],
        "width": 8 * LATENT[2],
        "num_frames": 1 + 4 * (LATENT[0] - 1),
        "num_inference_steps": steps,
        "guidance_scale": 5.0,
    }
    wanted = last(pipeline(**asked, output_type="latent").frames)
    words = {"steps": steps, "solver": {"name": solver, "grid": grid}, "guidance": 5.0, "noise": last(noise)}
    words |= {"negative": {"tokens": none.numpy()}, "progress": False, "seed": 0}
    process = type(ours.process)(shift=shift)
    flex = fd.FlexiDiT(ours.model, ours.params, process, ours.codec)
    found = flex.sample({"tokens": features.numpy()}, decode=False, **words)
    error, spread = np.abs(found - wanted).max(), wanted.std()
    print(f"{solver} {steps}: {error:.1e} of a spread of {spread:.2f}")
    assert 0.3 < spread < 30 and error < 2e-5 * max(spread, 1)
    frames = pipeline(**asked, output_type="np").frames
    clips = flex.decode(found)
    assert clips.shape == (2, 9, 48, 64, 3)
    assert np.abs(clips / 255 - frames).max() < 0.51 / 255 + 1e-4


def test_what_is_written_is_read_by_diffusers(model: Any, ours: fd.FlexiDiT, tmp_path: Path) -> None:
    """A folder, in shards too, and a file by the names of the Wan repository."""
    state = model.state_dict()
    ours.export(tmp_path / "whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(weights, "SHARD", 40_000)
        ours.export(tmp_path / "shards")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    for name in ("whole", "shards"):
        found = diffusers.WanTransformer3DModel.from_pretrained(tmp_path / name)
        assert all(torch.equal(array, state[name]) for name, array in found.state_dict().items())
        assert dict(found.config).items() >= {"ffn_dim": 72, "num_attention_heads": 2, "text_dim": FEATURES}.items()
    ours.export(tmp_path / "wan.safetensors")
    theirs = single_file_utils.convert_wan_transformer_to_diffusers(load_file(tmp_path / "wan.safetensors"))
    assert theirs.keys() == state.keys() and all(torch.equal(theirs[name], state[name]) for name in state)


def merged_kernels(flex: fd.FlexiDiT, patch: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Of the layers that modes adapt, by the names of diffusers, as torch has them."""
    blocks = merged(at(flex.params, patch))["blocks"]
    found = {}
    for name, (path, part, parts) in WAN.adapted.items():
        first, second = path.split("/")
        for i, kernel in enumerate(blocks[first][second]["kernel"]):
            found[f"blocks.{i}.{name}.weight"] = np.split(np.asarray(kernel), parts, axis=-1)[part].T
    return found


def test_adapters_of_a_mode_in_diffusers(ours: fd.FlexiDiT, tmp_path: Path) -> None:
    """As a lone file, and as a folder of PEFT: the kernels that they make are ours."""
    peft = pytest.importorskip("peft")
    flex = ours.flexify([(1, 2, 2), (1, 2, 4)], adapters=3)
    rng = np.random.default_rng(0)
    blocks = flex.params["modes"]["1x2x4"]["blocks"]
    for part, layer in (("attention", "qkv"), ("attention", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        leaves = blocks[part][layer]
        leaves |= {leaf: rng.normal(size=leaves[leaf].shape).astype(np.float32) / 4 for leaf in leaves}
    wanted = merged_kernels(flex, (1, 2, 4))
    flex.export(tmp_path / "lora.safetensors", patch=(1, 2, 4), adapters_only=True)
    pipeline = diffusers.WanPipeline(None, None, vae(), SCHEDULERS["unipc"](3.0), wan())
    pipeline.load_lora_weights(str(tmp_path), weight_name="lora.safetensors")
    pipeline.fuse_lora()
    pipeline.unload_lora_weights()
    flex.export(tmp_path / "lora", patch=(1, 2, 4), adapters_only=True)
    by_peft = peft.PeftModel.from_pretrained(wan(), tmp_path / "lora").merge_and_unload()
    for state in (pipeline.transformer.state_dict(), by_peft.state_dict()):
        for name, kernel in wanted.items():
            np.testing.assert_allclose(state[name].numpy(), kernel, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("lone", [False, True])
def test_adapters_of_others_are_merged(ours: fd.FlexiDiT, tmp_path: Path, lone: bool) -> None:
    """A folder of PEFT, a file as diffusers' trainers write it, on attention to the text and outside blocks too."""
    peft = pytest.importorskip("peft")
    layers = ["to_k", "to_out.0", "ffn.net.0.proj", "ffn.net.2", "linear_1", "time_proj"]
    model = peft.get_peft_model(wan(), peft.LoraConfig(r=4, lora_alpha=6, target_modules=layers))
    with torch.no_grad():
        for parameter in (parameter for name, parameter in model.named_parameters() if "lora_B" in name):
            parameter.copy_(torch.randn_like(parameter) / 9)
    model.save_pretrained(tmp_path / "theirs")
    if lone:
        diffusers.WanPipeline.save_lora_weights(
            tmp_path / "lone",
            transformer_lora_layers=peft.get_peft_model_state_dict(model),
            transformer_lora_adapter_metadata=model.peft_config["default"].to_dict(),
        )
    found = fd.load(tmp_path / ("lone" if lone else "theirs"), base=ours)
    x, t, (features, _) = drawn(2, CHANNELS, *LATENT, seed=4), torch.tensor([431.5, 999.0]), texts()
    with torch.no_grad():
        wanted = last(model(x, t, features).sample)
    output = found.predict(last(x), t.numpy(), {"tokens": features.numpy()}).output
    plain = ours.predict(last(x), t.numpy(), {"tokens": features.numpy()}).output
    assert np.abs(output - wanted).max() < 5e-5 * max(wanted.std(), 1)
    assert np.abs(plain - wanted).max() > 1e-2
