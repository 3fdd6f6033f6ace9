"""What the tensors of a Wan are called: by diffusers, by its own repository, and those that others of the family have.

Before the repository's names ComfyUI puts `model.diffusion_model.`; whatever stands before all of them is taken off
where a file is read (`common.weights`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial

from flexidit_jax.common.tensor_files import Tensors
from flexidit_jax.common.weights import Network
from flexidit_jax.convert.dit_layout import StateDict

CLASS = "WanTransformer3DModel"
#: what others of the family have, and do
OTHERS = {
    **dict.fromkeys(("image_embedder", "img_emb", "add_k_proj", "k_img"), "makes clips of images"),
    **dict.fromkeys(("vace_patch_embedding", "vace_blocks"), "edits clips (VACE)"),
    **dict.fromkeys(("pose_patch_embedding", "motion_encoder"), "animates a picture (Animate)"),
    **dict.fromkeys(("casual_audio_encoder", "audio_injector"), "follows sound (S2V)"),
    "control_adapter": "follows a camera",
}
NETWORKS = (
    Network(
        CLASS,
        "condition_embedder.time_proj.weight",
        ("patch_embedding", "condition_embedder", "blocks", "scale_shift_table", "proj_out", *OTHERS),
    ),
    Network(
        CLASS,
        "time_projection.1.weight",
        ("patch_embedding", "time_embedding", "time_projection", "text_embedding", "blocks", "head", *OTHERS),
    ),
)
TABLE = "scale_shift_table"
#: a part of a network outside its blocks, as diffusers calls it -> as the Wan repository does
REPOSITORY = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    TABLE: "head.modulation",
    "proj_out": "head.head",
}
#: the same of both attentions of a block
OF_ATTENTION = {
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "o",
    "norm_q": "norm_q",
    "norm_k": "norm_k",
}
#: and below `blocks.<i>`
REPOSITORY_BLOCK = {
    **{
        f"{attention}.{part}": f"{theirs}.{name}"
        for attention, theirs in (("attn1", "self_attn"), ("attn2", "cross_attn"))
        for part, name in OF_ATTENTION.items()
    },
    "norm2": "norm3",
    "ffn.net.0.proj": "ffn.0",
    "ffn.net.2": "ffn.2",
    TABLE: "modulation",
}


def of_repository(name: str) -> str:
    """What the Wan repository calls a tensor, or a layer, of diffusers."""
    return _renamed(name, REPOSITORY, REPOSITORY_BLOCK)


def of_diffusers(name: str) -> str:
    """The inverse of `of_repository`."""
    outside, block = ({theirs: ours for ours, theirs in names.items()} for names in (REPOSITORY, REPOSITORY_BLOCK))
    return _renamed(name, outside, block)


def in_diffusers(state: StateDict) -> StateDict:
    """A state dict of either with the names of diffusers, its tensors unread."""
    if NETWORKS[1].mark not in state:
        return state
    return Tensors({of_diffusers(name): partial(state.__getitem__, name) for name in state})


def _renamed(name: str, outside: Mapping[str, str], block: Mapping[str, str]) -> str:
    """A name whose part, of a block or outside of all, is called so there; any other as it is."""
    at, part, leaf = re.fullmatch(r"(blocks\.\d+\.)?(.*?)(\.weight|\.bias)?", name).groups(default="")
    return f"{at}{(block if at else outside).get(part, part)}{leaf}"
