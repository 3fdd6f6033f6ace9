"""Which layers a LoRA may change, and what they are called by whichever program wrote it.

A layer's name is that of diffusers. In files a word may stand before it (`transformer.`, `diffusion_model.`), it may be
that of the Wan repository, and kohya's programs write `_` for every dot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from flexidit_jax.convert import pixart_diffusers, pixart_layout, wan_layout
from flexidit_jax.convert.wan_names import of_repository

#: below a block -> path of a layer here below `blocks`, and which of how many linears there, one after another
SELF = {
    "attn1.to_q": ("attention/qkv", 0, 3),
    "attn1.to_k": ("attention/qkv", 1, 3),
    "attn1.to_v": ("attention/qkv", 2, 3),
    "attn1.to_out.0": ("attention/proj", 0, 1),
}
CROSS = {
    "attn2.to_q": ("cross_attention/q", 0, 1),
    "attn2.to_k": ("cross_attention/k", 0, 1),
    "attn2.to_v": ("cross_attention/v", 0, 1),
    "attn2.to_out.0": ("cross_attention/proj", 0, 1),
}


class Layers(NamedTuple):
    """Of a kind of transformer.

    Attributes:
      blocks: what stands before the number of a block.
      adapted: below a block -> see `SELF`, of layers that modes adapt.
      also: the same of layers that no mode adapts.
      outside: outside blocks -> path of a layer here.
      word: what stands before a name in a lone file.
      there: what a layer is called there.
    """

    blocks: str
    adapted: Mapping[str, tuple[str, int, int]]
    also: Mapping[str, tuple[str, int, int]]
    outside: Mapping[str, str]
    word: str
    there: Callable[[str], str]


class Place(NamedTuple):
    """Where the kernel of a layer is.

    Attributes:
      path: in a trunk.
      block: the number of its block, if it is of one.
      part, parts: which of how many parts of its columns.
    """

    path: str
    block: tuple[int, ...]
    part: int
    parts: int


#: of DiT and PixArt, and of Wan
DIT = Layers(
    "transformer_blocks",
    SELF | {"ff.net.0.proj": ("mlp/fc1", 0, 1), "ff.net.2": ("mlp/fc2", 0, 1)},
    CROSS | {"norm1.linear": ("modulation", 0, 1)},
    {
        (pixart_diffusers.OUTSIDE | pixart_diffusers.MICRO)[name]: path
        for path, name in (pixart_layout.OUTSIDE | pixart_layout.MICRO).items()
    },
    "transformer",
    str,
)
WAN = Layers(
    "blocks",
    SELF | {"ffn.net.0.proj": ("mlp/fc1", 0, 1), "ffn.net.2": ("mlp/fc2", 0, 1)},
    CROSS,
    {name: path for path, name in wan_layout.OUTSIDE.items()},
    "diffusion_model",
    of_repository,
)


def layers_of(trunk: Mapping[str, Any]) -> Layers:
    """Those of the kind of transformer that a trunk is of, leaves by path."""
    return WAN if "blocks/norm_cross/gain" in trunk else DIT


def places(trunk: Mapping[str, Any]) -> dict[str, Place]:
    """All layers of a trunk, leaves by path, that a LoRA may change."""
    layers, depth = layers_of(trunk), len(trunk["blocks/mlp/fc2/bias"])
    found = {name: Place(f"{path}/kernel", (), 0, 1) for name, path in layers.outside.items()}
    for i in range(depth):
        for name, (path, part, parts) in (layers.adapted | layers.also).items():
            found[f"{layers.blocks}.{i}.{name}"] = Place(f"blocks/{path}/kernel", (i,), part, parts)
    return {name: place for name, place in found.items() if place.path in trunk}


def spellings(names: Iterable[str], layers: Layers) -> dict[str, str]:
    """Whatever layers are called -> their names."""
    found = {said: name for name in names for said in (name, layers.there(name))}
    return {said.replace(".", "_"): name for said, name in found.items()} | found
