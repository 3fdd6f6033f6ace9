"""The published state dict of an autoencoder (diffusers' AutoencoderKL) <-> the model and its parameters.

Facts of the layout: torch kernels are [out, in, kh, kw] and linears [out, in]; a norm's scale is its
`weight`. The mid-block attention is spelt two ways, `to_q to_k to_v to_out.0` and, in older files such
as sd-vae-ft-ema, `query key value proj_attn`; its four kernels may be 1x1 convolutions.

It stands beside the model, and not in `convert`, because the codec that reads it may not import that.
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
from flexidit_jax.models.pretrained.autoencoder_kl import VAE

StateDict = Mapping[str, np.ndarray]

NETWORK = Network("AutoencoderKL", "encoder.conv_in.weight", ("encoder", "decoder", "quant_conv", "post_quant_conv"))
OLDER_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def published_name(path: str) -> str:
    """Our path `encoder/down_blocks_0/resnets_1/conv1/kernel` as the published dotted name."""
    path, leaf = path.rsplit("/", 1)
    path = re.sub(r"_(\d+)(?=/|$)", r".\1", path).replace("/", ".")
    return f"{path}.{'bias' if leaf == 'bias' else 'weight'}"


def read_vae(state: StateDict, groups: int = 32) -> tuple[VAE, Params]:
    """A state dict of the published layout -> the model it describes and its parameters, float32.

    Args:
      state: arrays by name, of any float type.
      groups: of the group norms, which the tensors do not tell (`norm_num_groups` in config.json).

    Raises:
      UserError: missing, extra or misshapen keys (all named), or groups that do not divide the widths.
    """
    state = {_newer(key): value for key, value in state.items()}
    model = _model_of(state, groups)
    expected = {published_name(path): _published_shape(leaf.shape) for path, leaf in _leaves(model).items()}
    found = {name: _squeezed(name, array) if name in expected else array for name, array in state.items()}
    problems = differences(expected, found)
    if problems:
        raise UserError("not an AutoencoderKL state dict: " + told(problems))
    return model, unflatten({path: _ours(found[published_name(path)].astype(np.float32)) for path in _leaves(model)})


def write_vae(params: Params) -> dict[str, np.ndarray]:
    """Parameters -> a state dict of the published layout, float32; the inverse of `read_vae`."""
    return {published_name(path): _theirs(np.asarray(leaf, np.float32)) for path, leaf in flatten(params).items()}


def _newer(key: str) -> str:
    """A name of an older file as newer ones spell it."""
    older = "|".join(OLDER_NAMES)
    return re.sub(rf"(\.attentions\.0\.)({older})\.", lambda m: f"{m[1]}{OLDER_NAMES[m[2]]}.", key)


def _squeezed(name: str, array: np.ndarray) -> np.ndarray:
    """The kernel of an attention stored as a 1x1 convolution, as a linear."""
    return array[:, :, 0, 0] if ".attentions." in name and array.shape[2:] == (1, 1) else array


def _ours(array: np.ndarray) -> np.ndarray:
    """A kernel with its axes in our order: [kh, kw, in, out] or [in, out]."""
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0) if array.ndim == 4 else array.T)


def _theirs(array: np.ndarray) -> np.ndarray:
    """The inverse of `_ours`."""
    return np.ascontiguousarray(array.transpose(3, 2, 0, 1) if array.ndim == 4 else array.T)


def _published_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (shape[3], shape[2], *shape[:2]) if len(shape) == 4 else shape[::-1]


def _leaves(model: VAE) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of the model's parameters by path."""
    image = jnp.zeros((1, model.factor, model.factor, model.channels))
    return flatten(jax.eval_shape(partial(model.init, jax.random.key(0)), image)["params"])


def _model_of(state: StateDict, groups: int) -> VAE:
    """The model a state dict describes, from the few tensors that tell."""
    levels = _count(state, r"encoder\.down_blocks\.(\d+)\.")
    resnets = _count(state, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")
    telling = [f"encoder.down_blocks.{i}.resnets.0.conv1.weight" for i in range(max(levels, 1))]
    telling += ["encoder.conv_in.weight", "post_quant_conv.weight"]
    problems = misaxed(dict.fromkeys(telling, 4), state)
    if problems:
        raise UserError("not an AutoencoderKL state dict: " + told(problems))
    widths = tuple(state[name].shape[0] for name in telling[:levels])
    if groups < 1 or any(width % groups for width in widths):
        raise UserError(f"norm_num_groups={groups} does not divide the widths {', '.join(map(str, widths))}")
    latent, channels = state["post_quant_conv.weight"].shape[0], state["encoder.conv_in.weight"].shape[1]
    return VAE(widths, resnets, latent, channels, groups)


def _count(state: StateDict, pattern: str) -> int:
    """How many numbers the group of `pattern` takes, counting from 0."""
    return 1 + max((int(match[1]) for key in state if (match := re.match(pattern, key))), default=-1)
