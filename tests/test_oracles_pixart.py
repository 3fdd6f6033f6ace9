"""Live parity of PixArt with diffusers' own model and pipeline, and of LoRA with PEFT; `make test-oracles`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.models.adapters import merged
from flexidit_jax.models.flexify import at

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

WIDTH, FEATURES, LENGTH = 24, 16, 7
#: of outputs, whose spread is about 1
TOLERANCE = 5e-5


def pixart(**words: Any) -> Any:
    """diffusers' own model with nothing left at zero."""
    torch.manual_seed(0)
    sizes = {"num_attention_heads": 2, "attention_head_dim": 12, "cross_attention_dim": WIDTH, "num_layers": 2}
    sizes |= {"sample_size": 16, "caption_channels": FEATURES, "use_additional_conditions": False}
    model = diffusers.PixArtTransformer2DModel(**sizes | words).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            linear = parameter.ndim > 1 and "table" not in name
            parameter.copy_((parameter[0].numel() ** -0.5 if linear else 0.2) * torch.randn_like(parameter))
    return model


def drawn(*shape: int, seed: int = 1) -> Any:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def texts() -> tuple[Any, Any]:
    """Features of three texts of 7, 1 and 4 tokens, and which these are."""
    return drawn(3, LENGTH, FEATURES, seed=2), (torch.arange(LENGTH) < torch.tensor([[7], [1], [4]])).float()


def last(images: Any) -> np.ndarray:
    """[B, C, H, W] with channels last."""
    return np.moveaxis(images.detach().numpy(), 1, -1)


@pytest.mark.parametrize(
    ("words", "sides"),
    [
        ({"interpolation_scale": 0.5}, (16, 16)),
        ({"interpolation_scale": 1}, (24, 12)),
        ({"interpolation_scale": 2, "sample_size": 32}, (32, 32)),
        ({"interpolation_scale": 4, "sample_size": 8}, (10, 14)),
        ({"num_layers": 42}, (16, 16)),
        ({"use_additional_conditions": True}, (16, 24)),
    ],
)
def test_the_network(tmp_path: Path, words: dict[str, Any], sides: tuple[int, int]) -> None:
    theirs = pixart(**words)
    theirs.save_pretrained(tmp_path)
    ours = fd.load(tmp_path)
    assert ours.model.depth == words.get("num_layers", 2)
    x, (features, mask), t = drawn(3, 4, *sides), texts(), torch.tensor([0, 431, 999])
    micro = {"resolution": torch.tensor([[512.0, 768.0]] * 3), "aspect_ratio": torch.tensor([[0.67]] * 3)}
    added = micro if words.get("use_additional_conditions") else {"resolution": None, "aspect_ratio": None}
    with torch.no_grad():
        wanted = theirs(x, features, t, added, encoder_attention_mask=mask).sample
    cond = {key: value.numpy() for key, value in added.items() if value is not None}
    found = ours.predict(last(x), t.numpy(), cond | {"tokens": features.numpy(), "mask": mask.numpy() == 1})
    wanted = last(wanted)
    spread = wanted.std()
    assert 0.2 < spread < 20
    assert np.abs(np.concatenate(found, axis=-1) - wanted).max() < TOLERANCE * max(spread, 1)


@pytest.mark.parametrize(
    ("words", "sides"),
    [({}, (16, 16)), ({}, (24, 16)), ({"sample_size": 128, "use_additional_conditions": True}, (16, 20))],
)
def test_the_whole_pipeline(tmp_path: Path, words: dict[str, Any], sides: tuple[int, int]) -> None:
    """Twenty steps of DPM-Solver++ with guidance, for the same weights, noise and features."""
    pytest.importorskip("transformers")  # which diffusers wants for its pipelines
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    )
    scheduler = diffusers.DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear")
    theirs = pixart(**words)
    pipeline = diffusers.PixArtAlphaPipeline(None, None, vae, theirs, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    (features, mask), noise, height, width = texts(), drawn(3, 4, *sides), 8 * sides[0], 8 * sides[1]
    empty = drawn(1, 1, FEATURES, seed=3)
    padded = torch.nn.functional.pad(empty, (0, 0, 0, LENGTH - 1)).repeat(3, 1, 1)
    own = (torch.arange(LENGTH) < 1).float().repeat(3, 1)
    wanted = pipeline(
        prompt=None,
        negative_prompt=None,
        prompt_embeds=features,
        prompt_attention_mask=mask,
        negative_prompt_embeds=padded,
        negative_prompt_attention_mask=own,
        latents=noise,
        height=height,
        width=width,
        use_resolution_binning=False,
        output_type="latent",
    ).images
    theirs.save_pretrained(tmp_path)
    ours = fd.load(tmp_path, length=LENGTH)
    asked = [tokens[: int(count)].numpy() for tokens, count in zip(features, mask.sum(1), strict=True)]
    if sides != (16, 16):
        ours = ours.sized((1, *sides, 4))
    found = ours.sample(asked, negative=empty[0].numpy(), noise=last(noise), decode=False, progress=False)
    wanted = last(wanted)
    assert np.abs(found - wanted).max() < 1e-4 * wanted.std()


def test_adapters_are_merged_as_peft_merges_them(tmp_path: Path) -> None:
    """A mode's own in the model of diffusers, and PEFT's own in ours, of attention to the text too."""
    peft = pytest.importorskip("peft")
    theirs = pixart()
    theirs.save_pretrained(tmp_path / "base")
    base = fd.load(tmp_path / "base", length=LENGTH)
    flex = base.flexify((2, 4), adapters=3)
    rng = np.random.default_rng(0)
    for part, layer in (("attention", "qkv"), ("attention", "proj"), ("mlp", "fc1"), ("mlp", "fc2")):
        leaves = flex.params["modes"]["1x4x4"]["blocks"][part][layer]
        leaves |= {leaf: rng.normal(size=leaves[leaf].shape).astype(np.float32) for leaf in leaves}
    flex.export(tmp_path / "lora", patch=4, adapters_only=True)
    state = peft.PeftModel.from_pretrained(pixart(), tmp_path / "lora").merge_and_unload().state_dict()
    blocks = merged(at(flex.params, (1, 4, 4)))["blocks"]
    for i in range(2):
        name = f"transformer_blocks.{i}"
        qkv = [state[f"{name}.attn1.to_{part}.weight"].numpy().T for part in "qkv"]
        kernels = {("attention", "qkv"): np.concatenate(qkv, axis=1)}
        kernels |= {
            path: state[f"{name}.{module}.weight"].numpy().T
            for path, module in {
                ("attention", "proj"): "attn1.to_out.0",
                ("mlp", "fc1"): "ff.net.0.proj",
                ("mlp", "fc2"): "ff.net.2",
            }.items()
        }
        for (part, layer), kernel in kernels.items():
            np.testing.assert_allclose(blocks[part][layer]["kernel"][i], kernel, atol=1e-6, rtol=1e-6)

    layers = ["to_k", "to_out.0", "ff.net.2", "linear_1", "adaln_single.linear"]
    model = peft.get_peft_model(theirs, peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=layers))
    with torch.no_grad():
        for parameter in (parameter for name, parameter in model.named_parameters() if "lora_B" in name):
            parameter.copy_(torch.randn_like(parameter) / 9)
    model.save_pretrained(tmp_path / "theirs")
    ours = fd.load(tmp_path / "theirs", base=base)
    x, (features, mask), t = drawn(3, 4, 16, 16), texts(), torch.tensor([0, 431, 999])
    with torch.no_grad():
        none = {"resolution": None, "aspect_ratio": None}
        wanted = last(model(x, features, t, none, encoder_attention_mask=mask).sample)
    found = ours.predict(last(x), t.numpy(), {"tokens": features.numpy(), "mask": mask.numpy() == 1})
    assert np.abs(np.concatenate(found, axis=-1) - wanted).max() < TOLERANCE * max(wanted.std(), 1)
