"""The published state dicts of Wan 2.1's autoencoder <-> the model and its parameters.

Facts of the layouts: diffusers' `AutoencoderKLWan`, and the names of the Wan repository (`Wan2.1_VAE.pth`), which are
of the same tensors. Torch kernels are [out, in, (kt,) kh, kw]; weights of norms have axes of 1 behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import differences, misaxed, told
from flexidit_jax.common.trees import flatten, unflatten
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import Network
from flexidit_jax.models.pretrained.autoencoder_wan import WanVAE

StateDict = Mapping[str, np.ndarray]

KIND = "AutoencoderKLWan"
PARTS = ("encoder", "decoder", "quant_conv", "post_quant_conv")
NETWORKS = (
    Network(KIND, "encoder.conv_in.weight", PARTS),
    Network(KIND, "encoder.downsamples.0.residual.2.weight", ("encoder", "decoder", "conv1", "conv2")),
)
#: names of the Wan repository -> diffusers'
_RESIDUAL = {"0": "norm1", "2": "conv1", "3": "norm2", "6": "conv2"}
_WHOLE = {"conv1": "quant_conv", "conv2": "post_quant_conv"}
_PARTS = {
    r"conv1": "conv_in",
    r"head\.0": "norm_out",
    r"head\.2": "conv_out",
    r"middle\.0": "mid_block.resnets.0",
    r"middle\.1": "mid_block.attentions.0",
    r"middle\.2": "mid_block.resnets.1",
}


def published_name(path: str) -> str:
    """Our path `encoder/down_blocks_2/resample_1/kernel` as the dotted name of diffusers."""
    path, leaf = path.rsplit("/", 1)
    path = re.sub(r"_(\d+)(?=/|$)", r".\1", path).replace("/", ".")
    return f"{path}.{'weight' if leaf == 'kernel' else leaf}"


def read_vae(state: StateDict) -> tuple[WanVAE, Params]:
    """A state dict of either layout -> the model it describes and its parameters, float32.

    Raises:
      UserError: missing, extra or misshapen keys (all named).
    """
    state = _newer(state)
    model = _model_of(state)
    leaves = _leaves(model)
    expected = {published_name(path): _published_shape(path, leaf.shape) for path, leaf in leaves.items()}
    if problems := differences(expected, state):
        raise UserError(f"not an {KIND} state dict: {told(problems)}")
    return model, unflatten({path: _ours(path, state[published_name(path)].astype(np.float32)) for path in leaves})


def write_vae(params: Params) -> dict[str, np.ndarray]:
    """Parameters -> a state dict of diffusers' layout, float32; the inverse of `read_vae`."""
    flat = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(params).items()}
    return {published_name(path): _theirs(path, leaf) for path, leaf in flat.items()}


def _newer(state: StateDict) -> StateDict:
    """With the names of diffusers."""
    resnets = min(_numbers(state, r"encoder\.downsamples\.(\d+)\.resample\."), default=0)
    return {_newer_name(name, resnets): array for name, array in state.items()}


def _newer_name(name: str, resnets: int) -> str:
    """A name of the Wan repository as diffusers has it.

    Args:
      resnets: of a level of the encoder.
    """
    part, _, rest = name.partition(".")
    if part in _WHOLE:
        return f"{_WHOLE[part]}.{rest}"
    for theirs, ours in _PARTS.items():
        rest = re.sub(rf"^{theirs}\.", f"{ours}.", rest)
    rest = re.sub(r"^downsamples\.", "down_blocks.", rest)
    if found := re.match(r"upsamples\.(\d+)\.", rest):
        level, place = divmod(int(found[1]), resnets + 2)
        ours = f"resnets.{place}" if place <= resnets else "upsamplers.0"
        rest = f"up_blocks.{level}.{ours}.{rest[found.end() :]}"
    rest = re.sub(r"\.residual\.(\d)\.", lambda found: f".{_RESIDUAL.get(found[1], found[0])}.", rest)
    return f"{part}.{re.sub(r'[.]shortcut[.]', '.conv_shortcut.', rest)}"


def _ours(path: str, array: np.ndarray) -> np.ndarray:
    """A kernel with its axes in our order, [(kt,) kh, kw, in, out]; the weight of a norm without its axes of 1."""
    if not path.endswith("/kernel"):
        return array.reshape(-1)
    return np.ascontiguousarray(np.moveaxis(array, (1, 0), (-2, -1)))


def _theirs(path: str, array: np.ndarray) -> np.ndarray:
    """The inverse of `_ours`."""
    if not path.endswith("/kernel"):
        return array.reshape(_published_shape(path, array.shape))
    return np.ascontiguousarray(np.moveaxis(array, (-2, -1), (1, 0)))


def _published_shape(path: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) > 1:
        return (shape[-1], shape[-2], *shape[:-2])
    if not path.endswith("/gamma"):
        return shape
    return (*shape, 1, 1) if "/attentions_" in path else (*shape, 1, 1, 1)


def _leaves(model: WanVAE) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the model's parameters by path."""
    frames, side = model.factors
    clip = jnp.zeros((1, 1 + frames, side, side, model.channels))
    return flatten(jax.eval_shape(partial(model.init, jax.random.key(0)), clip)["params"])


def _model_of(state: StateDict) -> WanVAE:
    """The model a state dict describes, from the few tensors that tell."""
    count = 1 + max(_numbers(state, r"encoder\.down_blocks\.(\d+)\."), default=-1)
    downs = sorted(_numbers(state, r"encoder\.down_blocks\.(\d+)\.resample\.1\.weight"))
    resnets = downs[0] if downs else count
    firsts = [0, *(down + 1 for down in downs)]
    telling = [f"encoder.down_blocks.{i}.conv1.weight" for i in firsts]
    telling += ["encoder.conv_in.weight", "post_quant_conv.weight"]
    problems = misaxed(dict.fromkeys(telling, 5), state)
    if problems:
        raise UserError(f"not an {KIND} state dict: {told(problems)}")
    widths = tuple(state[name].shape[0] for name in telling[: len(firsts)])
    time = tuple(f"encoder.down_blocks.{i}.time_conv.weight" in state for i in downs)
    latent, channels = state["post_quant_conv.weight"].shape[0], state["encoder.conv_in.weight"].shape[1]
    return WanVAE(widths, resnets, latent, time, channels)


def _numbers(state: StateDict, pattern: str) -> set[int]:
    """What the group of a pattern takes in names."""
    return {int(found[1]) for found in map(re.compile(pattern).match, state) if found}
