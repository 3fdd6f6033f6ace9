"""CLIP's file, as the transformers library has it -> the model of the sizes that its tensors have, its parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import isqrt
from typing import Any

import jax.numpy as jnp

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import Network
from flexidit_jax.models.pretrained.clip import Clip, Text, Vision
from flexidit_jax.models.pretrained.published import StateDict, depth_of, heads_of, read_named, shapes_of
from flexidit_jax.models.pretrained.transformer import ACTIVATIONS

KIND = "CLIP"
PATCHES = "vision_model.embeddings.patch_embedding.weight"
PARTS = ("text_model", "vision_model", "text_projection", "visual_projection")
NETWORK = Network(KIND, PATCHES, PARTS, unread=r"\.position_ids$")
#: our name within a block -> published
WITHIN = {
    "norm1": "layer_norm1",
    **{name: f"self_attn.{name[0]}_proj" for name in ("query", "key", "value")},
    "out": "self_attn.out_proj",
    "norm2": "layer_norm2",
    "fc1": "mlp.fc1",
    "fc2": "mlp.fc2",
}
OUTSIDE = {
    "vision/class_token": "vision_model.embeddings.class_embedding",
    "vision/positions": "vision_model.embeddings.position_embedding.weight",
    "vision/patch/kernel": PATCHES,
    "vision/norm_before": "vision_model.pre_layrnorm",
    "vision/norm_after": "vision_model.post_layernorm",
    "vision/projection/kernel": "visual_projection.weight",
    "text/tokens": "text_model.embeddings.token_embedding.weight",
    "text/positions": "text_model.embeddings.position_embedding.weight",
    "text/norm": "text_model.final_layer_norm",
    "text/projection/kernel": "text_projection.weight",
}


def read_clip(state: StateDict, config: Mapping[str, Any], num_heads: int | None) -> tuple[Clip, Params]:
    """A state dict -> the model that it describes and its parameters, float32.

    Args:
      config: the `config.json` of the transformers library; may be empty.
      num_heads: of the image's tower where it says nothing, and the width is not a published one; those of the text's
        tower are as wide.

    Raises:
      UserError: missing, extra or misshapen tensors, heads that nothing tells, or an activation that there is not.
    """
    state = {name: array for name, array in state.items() if name != "logit_scale"}
    places, words, into = (OUTSIDE[name] for name in ("vision/positions", "text/tokens", "vision/projection/kernel"))
    length = OUTSIDE["text/positions"]
    hidden = [f"{tower}_model.encoder.layers.0.mlp.fc1.weight" for tower in ("vision", "text")]
    telling = {PATCHES: 4, places: 2, words: 2, into: 2, length: 2, hidden[0]: 2, hidden[1]: 2}
    if wrong := [name for name, axes in telling.items() if name not in state or state[name].ndim != axes]:
        raise UserError(f"not a state dict of {KIND}: missing {', '.join(wrong)}")
    wide = len(state[PATCHES])
    of_image, of_text = (config.get(f"{tower}_config") or {} for tower in ("vision", "text"))
    heads = heads_of(wide, of_image.get("num_attention_heads"), num_heads, f"{KIND}'s image tower")
    width = state[words].shape[1]
    alike = None if num_heads is None else width * heads // wide
    common = {"features": len(state[into])}
    vision = Vision(
        wide,
        depth_of(state, "vision_model.encoder.layers."),
        heads,
        len(state[hidden[0]]),
        patch=state[PATCHES].shape[-1],
        grid=isqrt(len(state[places]) - 1),
        **common,
        **_said(of_image),
    )
    text = Text(
        width,
        depth_of(state, "text_model.encoder.layers."),
        heads_of(width, of_text.get("num_attention_heads"), alike, f"{KIND}'s text tower"),
        len(state[hidden[1]]),
        words=len(state[words]),
        length=len(state[length]),
        **common,
        **_said(of_text),
    )
    model = Clip(vision, text)
    image, ids = jnp.zeros((1, vision.side, vision.side, 3)), jnp.zeros((1, text.length), jnp.int32)
    return model, read_named(state, shapes_of(model, image, ids), published_name, KIND)


def _said(config: Mapping[str, Any]) -> dict[str, Any]:
    """What a tower's config says that no tensor tells."""
    activation = config.get("hidden_act", Vision.activation)
    if activation not in ACTIVATIONS:
        known = nearest(str(activation), ACTIVATIONS)
        raise UserError(f"config.json says hidden_act={activation!r}, which is not known{known}")
    return {"activation": activation, "eps": config.get("layer_norm_eps", Vision.eps)}


def published_name(path: str) -> str:
    """Our path `vision/block_3/query/kernel` as `vision_model.encoder.layers.3.self_attn.q_proj.weight`."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    above, _, leaf = path.rpartition("/")
    if block := re.fullmatch(r"(vision|text)/block_(\d+)/(\w+)", above):
        name = f"{block[1]}_model.encoder.layers.{block[2]}.{WITHIN[block[3]]}"
    else:
        name = OUTSIDE[above]
    return f"{name}.{'bias' if leaf == 'bias' else 'weight'}"
