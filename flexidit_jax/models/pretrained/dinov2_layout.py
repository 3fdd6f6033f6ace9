"""The two layouts of DINOv2's files, that of the transformers library and the original one -> model and parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import Network
from flexidit_jax.models.pretrained.dinov2 import DinoV2
from flexidit_jax.models.pretrained.published import StateDict, depth_of, heads_of, read_named, shapes_of

KIND = "DINOv2"
PATCHES = "embeddings.patch_embeddings.projection.weight"
#: that of the transformers library; the original one, whose file is dinov2_vitl14_pretrain.pth
NETWORKS = (
    Network(KIND, PATCHES, ("embeddings", "encoder", "layernorm"), unread=r"mask_token$"),
    Network(KIND, "patch_embed.proj.weight", ("patch_embed", "blocks", "norm"), unread=r"mask_token$"),
)
#: original name -> that of the transformers library
RENAMED = {
    r"^cls_token": "embeddings.cls_token",
    r"^pos_embed": "embeddings.position_embeddings",
    r"^register_tokens": "embeddings.register_tokens",
    r"^patch_embed\.proj": "embeddings.patch_embeddings.projection",
    r"^blocks": "encoder.layer",
    r"^norm\.": "layernorm.",
    r"\.attn\.proj": ".attention.output.dense",
    r"\.ls(\d)\.gamma": r".layer_scale\1.lambda1",
}
#: our name within a block -> published
WITHIN = {
    "norm1": "norm1",
    **{name: f"attention.attention.{name}" for name in ("query", "key", "value")},
    "out": "attention.output.dense",
    "scale1": "layer_scale1.lambda1",
    "norm2": "norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
    "scale2": "layer_scale2.lambda1",
}
OUTSIDE = {
    "class_token": "embeddings.cls_token",
    "positions": "embeddings.position_embeddings",
    "patch": "embeddings.patch_embeddings.projection",
    "norm": "layernorm",
}


def published(state: StateDict) -> StateDict:
    """A state dict of either layout by the names of the transformers library."""
    renamed = {}
    for name, array in state.items():
        for before, after in RENAMED.items() if "embeddings.cls_token" not in state else ():
            name = re.sub(before, after, name)
        if (fused := re.fullmatch(r"(.*)\.attn\.qkv\.(\w+)", name)) and len(array) % 3 == 0:
            parts = zip(("query", "key", "value"), np.split(array, 3), strict=True)
            renamed |= {f"{fused[1]}.attention.attention.{part}.{fused[2]}": rows for part, rows in parts}
        else:
            renamed[name] = array
    return renamed


def read_dinov2(
    state: StateDict, config: Mapping[str, Any], num_heads: int | None, positions: str
) -> tuple[DinoV2, Params]:
    """A state dict of either layout -> the model that it describes and its parameters, float32.

    Args:
      config: the `config.json` of the transformers library, of which `num_attention_heads` is read; may be empty.
      num_heads: where it says nothing, and the width is not a published one.
      positions: see `DinoV2`.

    Raises:
      UserError: registers, a gated MLP, missing, extra or misshapen tensors, or heads that nothing tells.
    """
    state = published(state)
    if "embeddings.register_tokens" in state:
        raise UserError("it has registers, and FD-DINOv2 is of the network without; take dinov2_vitl14_pretrain.pth")
    if any(re.search(r"\.mlp\.(w12|weights_in)\.", name) for name in state):
        raise UserError("its MLPs are gated (that is vitg14); FD-DINOv2 is of vitl14, take dinov2_vitl14_pretrain.pth")
    telling = {PATCHES: 4, OUTSIDE["positions"]: 3, "encoder.layer.0.mlp.fc1.weight": 2}
    if wrong := [name for name, axes in telling.items() if name not in state or state[name].ndim != axes]:
        raise UserError(f"not a state dict of {KIND}: missing {', '.join(wrong)}")
    kernel, places, mlp = (state[name] for name in telling)
    heads = heads_of(len(kernel), config.get("num_attention_heads"), num_heads, KIND)
    depth, grid = depth_of(state, "encoder.layer."), isqrt(places.shape[1] - 1)
    model = DinoV2(len(kernel), depth, heads, len(mlp), kernel.shape[-1], grid, positions)
    shapes = shapes_of(model, jnp.zeros((1, model.patch, model.patch, 3)))
    return model, read_named(state, shapes, published_name, KIND)


def published_name(path: str) -> str:
    """Our path `block_3/norm1/scale` as `encoder.layer.3.norm1.weight`."""
    block, _, rest = path.partition("/")
    if number := re.fullmatch(r"block_(\d+)", block):
        part, _, leaf = rest.partition("/")
        name = f"encoder.layer.{number[1]}.{WITHIN[part]}"
    else:
        name, leaf = OUTSIDE[block], rest
    return f"{name}.{'bias' if leaf == 'bias' else 'weight'}" if leaf else name
