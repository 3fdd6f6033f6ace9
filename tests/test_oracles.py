"""Live parity with torch and diffusers; `make test-oracles` runs this file."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from flexidit_jax.common.errors import UserError
from flexidit_jax.convert.dit_layout import read_dit
from flexidit_jax.convert.weight_files import read_state_dict
from flexidit_jax.loading import load
from flexidit_jax.training.optimizer import AdamW

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
F = torch.nn.functional
GOLDEN = Path(__file__).parent / "golden" / "dit_tiny.safetensors"


def random_state(width: int, depth: int, patch: int, side: int, classes: int, channels: int = 4) -> dict:
    """A random state dict of the published layout, nothing left at zero."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator) / math.sqrt(shape[-1])

    out = patch * patch * channels * 2
    linears = {"t_embedder.mlp.0": (width, 256), "t_embedder.mlp.2": (width, width)}
    linears |= {"final_layer.linear": (out, width), "final_layer.adaLN_modulation.1": (2 * width, width)}
    for i in range(depth):
        for name, rows, columns in (
            ("attn.qkv", 3 * width, width),
            ("attn.proj", width, width),
            ("mlp.fc1", 4 * width, width),
            ("mlp.fc2", width, 4 * width),
            ("adaLN_modulation.1", 6 * width, width),
        ):
            linears[f"blocks.{i}.{name}"] = (rows, columns)
    state = {f"{name}.weight": draw(*shape) for name, shape in linears.items()}
    state |= {f"{name}.bias": draw(shape[0]) * 3 for name, shape in linears.items()}
    state["x_embedder.proj.weight"] = draw(width, channels, patch, patch)
    state["x_embedder.proj.bias"] = draw(width)
    state["y_embedder.embedding_table.weight"] = draw(classes + 1, width)
    state["pos_embed"] = torch.from_numpy(positions(width, side // patch))[None].float()
    return state


def positions(width: int, n: int) -> np.ndarray:
    """Sin-cos positions, the column in the first half."""
    frequency = 10000.0 ** -(np.arange(width // 4) / (width / 4))
    row, column = np.divmod(np.arange(n * n), n)
    return np.concatenate([f(axis[:, None] * frequency) for axis in (column, row) for f in (np.sin, np.cos)], axis=1)


def torch_dit(state: dict, x: torch.Tensor, t: torch.Tensor, y: torch.Tensor, heads: int) -> torch.Tensor:
    """The DiT equations in torch's own layers: x [B, C, H, W] -> [B, 2C, H, W]."""

    def linear(name: str, h: torch.Tensor) -> torch.Tensor:
        return F.linear(h, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(h: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        return F.layer_norm(h, h.shape[-1:], eps=1e-6) * (1 + scale[:, None]) + shift[:, None]

    kernel = state["x_embedder.proj.weight"]
    width, patch = kernel.shape[0], kernel.shape[-1]
    h = F.conv2d(x, kernel, state["x_embedder.proj.bias"], stride=patch)
    b, _, rows, columns = h.shape
    h = h.flatten(2).transpose(1, 2) + state["pos_embed"]
    angle = t[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)
    c = linear("t_embedder.mlp.0", torch.cat([angle.cos(), angle.sin()], -1))
    c = linear("t_embedder.mlp.2", F.silu(c)) + state["y_embedder.embedding_table.weight"][y]
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    for i in range(depth):
        block = f"blocks.{i}"
        sa, ca, ga, sm, cm, gm = linear(f"{block}.adaLN_modulation.1", F.silu(c)).chunk(6, -1)
        qkv = linear(f"{block}.attn.qkv", norm(h, sa, ca)).view(b, -1, 3, heads, width // heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, -1, width)
        h = h + ga[:, None] * linear(f"{block}.attn.proj", a)
        m = F.gelu(linear(f"{block}.mlp.fc1", norm(h, sm, cm)), approximate="tanh")
        h = h + gm[:, None] * linear(f"{block}.mlp.fc2", m)
    shift, scale = linear("final_layer.adaLN_modulation.1", F.silu(c)).chunk(2, -1)
    h = linear("final_layer.linear", norm(h, shift, scale))
    h = h.view(b, rows, columns, patch, patch, -1)
    return torch.einsum("nhwpqc->nchpwq", h).reshape(b, -1, rows * patch, columns * patch)


@pytest.mark.parametrize(("width", "heads", "patch", "side"), [(48, 3, 2, 12), (32, 4, 4, 16)])
def test_dit_at_other_sizes(width: int, heads: int, patch: int, side: int) -> None:
    state = random_state(width, depth=2, patch=patch, side=side, classes=7)
    x = torch.randn(3, 4, side, side, generator=torch.Generator().manual_seed(1))
    t, y = torch.tensor([0, 400, 999]), torch.tensor([0, 7, 3])
    reference = torch_dit(state, x, t, y, heads).numpy().transpose(0, 2, 3, 1)
    model, params = read_dit({key: value.numpy() for key, value in state.items()}, heads)
    latents = jnp.asarray(x.numpy().transpose(0, 2, 3, 1)[:, None])
    ours = model.apply({"params": params}, latents, t.numpy(), model.conditioner.parse(y.numpy()))
    both = np.concatenate([ours.output, ours.variance], axis=-1)[:, 0]
    assert np.abs(both - reference).max() <= 5e-6 * np.abs(reference).max()


def test_adamw_against_torch() -> None:
    rng = np.random.default_rng(0)
    start = rng.normal(size=(5, 3)).astype(np.float32)
    weight = torch.nn.Parameter(torch.from_numpy(start.copy()))
    theirs = torch.optim.AdamW([weight], lr=1e-2, weight_decay=0.1)
    ours = AdamW(weight_decay=0.1).build(lambda _: 1e-2)
    params = {"w": jnp.asarray(start)}
    state = ours.init(params)
    for _ in range(10):
        gradient = rng.normal(size=start.shape).astype(np.float32)
        weight.grad = torch.from_numpy(gradient)
        theirs.step()
        updates, state = ours.update({"w": jnp.asarray(gradient)}, state, params)
        params = {"w": params["w"] + updates["w"]}
    np.testing.assert_allclose(params["w"], weight.detach().numpy(), atol=2e-6)


def test_published_pt_plain_and_under_ema(tmp_path: Path) -> None:
    state = random_state(384, depth=1, patch=2, side=8, classes=3)  # heads of a published width: 6
    torch.save(state, tmp_path / "plain.pt")
    args = argparse.Namespace(model="DiT-S/2")
    torch.save({"model": {}, "ema": state, "opt": {"lr": 1.0}, "args": args}, tmp_path / "train.pt")
    first, second = load(tmp_path / "plain.pt"), load(tmp_path / "train.pt")
    assert first.model.num_heads == second.model.num_heads == 6
    kernel = first.params["trunk"]["blocks"]["mlp"]["fc1"]["kernel"][0]
    np.testing.assert_array_equal(kernel, state["blocks.0.mlp.fc1.weight"].numpy().T)
    np.testing.assert_array_equal(kernel, second.params["trunk"]["blocks"]["mlp"]["fc1"]["kernel"][0])


@pytest.mark.parametrize(
    ("name", "wrap"),
    [
        ("module.pt", lambda raw, ema: under("module.", ema)),
        ("orig_mod.pt", lambda raw, ema: under("_orig_mod.", ema)),
        ("model.pt", lambda raw, ema: {"model": ema, "opt": {"state": {0: {"step": torch.tensor(1.0)}}}, "epoch": 3}),
        ("ema_module.pt", lambda raw, ema: {"model": raw, "ema": under("module.", ema), "args": argparse.Namespace()}),
        ("lit.ckpt", lambda raw, ema: {"state_dict": under("model.", ema), "hyper_parameters": {"lr": 1}, "step": 7}),
        ("m.pth", lambda raw, ema: {"model_state_dict": ema, "optimizer_state_dict": {"lr": 1}}),
        ("weights.bin", lambda raw, ema: {k: torch.nn.Parameter(v) for k, v in ema.items()}),
        ("half.bin", lambda raw, ema: {k: v.bfloat16().float().half() for k, v in ema.items()}),
        ("projectors.pt", lambda raw, ema: {**ema, "projectors.0.0.weight": torch.ones(4, 4)}),
    ],
)
def test_checkpoints_as_trainings_save_them(tmp_path: Path, name: str, wrap: Callable[..., dict]) -> None:
    state = random_state(384, depth=1, patch=2, side=8, classes=3)
    if name == "half.bin":
        state = {key: value.bfloat16().float() for key, value in state.items()}
    torch.save(wrap({key: value + 1 for key, value in state.items()}, state), tmp_path / name)
    found, _ = read_state_dict(tmp_path / name)
    assert found.keys() == state.keys()
    for key, value in state.items():
        np.testing.assert_array_equal(found[key], value.half().float() if name == "half.bin" else value, err_msg=key)


def under(prefix: str, state: dict) -> dict:
    return {prefix + key: value for key, value in state.items()}


def test_the_raw_weights_of_a_checkpoint(tmp_path: Path) -> None:
    state = random_state(384, depth=1, patch=2, side=8, classes=3)
    raw = {key: value + (key != "pos_embed") for key, value in state.items()}
    torch.save({"model": raw, "ema": state}, tmp_path / "train.pt")
    for which, shift in (("raw", 1), (None, 0)):
        flex = load(tmp_path / "train.pt", weights=which)
        bias = flex.params["trunk"]["blocks"]["mlp"]["fc1"]["bias"][0]
        np.testing.assert_array_equal(bias, state["blocks.0.mlp.fc1.bias"].numpy() + np.float32(shift))


def test_a_file_of_the_older_kind(tmp_path: Path) -> None:
    state = random_state(384, depth=1, patch=2, side=8, classes=3)
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    np.testing.assert_array_equal(read_state_dict(tmp_path / "old.pt")[0]["pos_embed"], state["pos_embed"])


def test_a_whole_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(3, 3), tmp_path / "module.pt")
    with pytest.raises(UserError) as caught:
        load(tmp_path / "module.pt")
    assert str(caught.value) == (
        f"{tmp_path / 'module.pt'} holds a pickled torch.nn.modules.linear.Linear, which only running its code could"
        " read; have tensors alone saved: torch.save(model.state_dict(), FILE)"
    )


def test_a_diffusers_folder_of_torch_files(tmp_path: Path) -> None:
    dit = load(GOLDEN)
    dit.export(tmp_path)
    weights = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = {key: torch.from_numpy(value) for key, value in load_file(weights).items()}
    weights.unlink()
    names = sorted(tensors)
    files = {name: f"diffusion_pytorch_model-0000{1 + i % 2}-of-00002.bin" for i, name in enumerate(names)}
    for file in set(files.values()):
        torch.save({name: tensors[name] for name in names if files[name] == file}, tmp_path / file)
    index = tmp_path / "diffusion_pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": files}))
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path).params, dit.params)
    index.unlink()
    torch.save(tensors, tmp_path / "diffusion_pytorch_model.bin")
    jax.tree.map(np.testing.assert_array_equal, load(tmp_path).params, dit.params)


class Hostile:
    """Pickles into a call that would leave a file behind."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (Path(self.path),)


def test_a_pt_that_wants_to_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"ema": {}, "trap": Hostile(str(tmp_path / "trace"))}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"holds a pickled .* which only running its code could read"):
        load(tmp_path / "evil.pt")
    assert not (tmp_path / "trace").exists()
