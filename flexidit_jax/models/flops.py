"""FLOPs of one denoiser call, counted as the paper counts them.

Multiply and add count separately; the denoiser alone, no decoder. In multiply-adds (MACs), for N
tokens of width d: a block costs `12 N d^2 + 2 N^2 d + 6 d^2` (qkv and proj 4, MLP 8; scores and
values; adaLN, which a "single" modulation has once), cross-attention to M text tokens adds
`2 N d^2 + 2 M d^2 + 2 N M d`, an unmerged LoRA of rank r adds `N r (d_in + d_out)` per adapted layer.
Embed, de-embed, the final adaLN and the timestep MLP (under 0.01 % of XL/2) complete the count, and the MLP that makes
features of k channels text tokens, `M (k d + d^2)`.

The paper counts that MLP and keys and values of a text, `2 M d^2` a block, in every call. Sampling makes them once a
prompt (`sampling.engine`): `text_kept` counts a call of it.

XLA's own `cost_analysis` counts a scanned block once, hence this module; a test holds it against
the lowering of an unrolled model.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp

from flexidit_jax.common.types import Patch
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.patch import tokens


class FlopCount(NamedTuple):
    """FLOPs of the denoiser for one sample.

    Attributes:
      total: over all steps, guide included.
      relative: over every step powerful with the same guidance, its calls powerful too; 0.64 means 64 %. A budget is
        a share of that.
      relative_unguided: over every step powerful and unguided; twice as much where all of them are guided.
    """

    total: float
    relative: float
    relative_unguided: float

    @property
    def shares(self) -> str:
        """Both, in words."""
        unguided, guided = (f"{100 * share:.1f} %" for share in (self.relative_unguided, self.relative))
        return f"{unguided} of powerful unguided, {guided} of powerful with the same guidance"


def row_macs(width: int, length: int, mlp_ratio: float = 4, text_tokens: int = 0, text_kept: bool = False) -> int:
    """MACs of one row of `length` tokens in one block, without adaLN: every token meets every other, and all text."""
    projected = length if text_kept else length + text_tokens
    cross = 2 * projected * width**2 + 2 * length * text_tokens * width if text_tokens else 0
    mlp = 2 * length * width * round(mlp_ratio * width)
    return 4 * length * width**2 + mlp + 2 * length**2 * width + cross


def text_tokens(model: DiT) -> int:
    """M, the tokens of a condition, which every block reads; 0 where it has none."""
    return getattr(model.conditioner, "length", 0)


def text_macs(model: DiT) -> int:
    """MACs of the layers that make the tokens of one text, before any block reads them."""
    return text_tokens(model) * getattr(model.conditioner, "token_macs", 0)


def kept_flops(model: DiT) -> int:
    """FLOPs of one text: its own layers, and its keys and values in all blocks."""
    return 2 * (model.depth * 2 * text_tokens(model) * model.width**2 + text_macs(model))


def kept_bytes(model: DiT) -> int:
    """Bytes of the keys and values of one text in all blocks."""
    return model.depth * 2 * text_tokens(model) * model.width * jnp.dtype(model.dtype).itemsize


def transformer_macs(
    width: int,
    depth: int,
    tokens: int,
    token_in: int,
    token_out: int,
    mlp_ratio: float = 4,
    text_tokens: int = 0,
    lora_rank: int = 0,
    text_kept: bool = False,
    modulation: str = "block",
    text_macs: int = 0,
) -> int:
    """MACs of one forward pass of one sample.

    Args:
      width, depth: d and the number of blocks.
      tokens: N.
      token_in, token_out: numbers read and written per token (patch volume times channels).
      mlp_ratio: hidden width of the MLP over d.
      text_tokens: M, for models with cross-attention; 0 without.
      lora_rank: r of adapters kept unmerged on qkv, proj, fc1 and fc2; 0 when merged or absent.
      text_kept: whether keys and values of the text are there already.
      modulation: see `models.modulation`.
      text_macs: of the layers that make the text's tokens; none where its keys and values are there.
    """
    d, n = width, tokens
    block = row_macs(d, n, mlp_ratio, text_tokens, text_kept)
    block += n * lora_rank * (8 * d + 2 * round(mlp_ratio * d))
    adaln = 6 * d**2 if modulation == "single" else (6 * depth + 2) * d**2
    text = 0 if text_kept else text_macs
    return depth * block + adaln + n * d * (token_in + token_out) + 256 * d + d**2 + text


def forward_flops(model: DiT, patch: Patch, lora_rank: int = 0, text_kept: bool = False) -> int:
    """FLOPs (two per MAC) of one sample through one mode of a model.

    Args:
      model, patch: the network and the mode.
      lora_rank: of adapters this mode runs unmerged.
      text_kept: whether it is handed keys and values of the condition's tokens.
    """
    volume = patch[0] * patch[1] * patch[2] * model.latent[-1]
    macs = transformer_macs(
        width=model.width,
        depth=model.depth,
        tokens=tokens(model.latent, patch),
        token_in=volume,
        token_out=volume * (2 if model.learn_variance else 1),
        mlp_ratio=model.mlp_ratio,
        text_tokens=text_tokens(model),
        lora_rank=lora_rank,
        text_kept=text_kept,
        modulation=model.modulation,
        text_macs=text_macs(model),
    )
    return 2 * macs


def pair_flops(model: DiT, cond: Patch, guide: Patch, batch: int, rows: int, length: int, text: int) -> int:
    """FLOPs executed for two modes whose sequences share the blocks in [rows, length] tokens.

    Only the blocks' work on tokens differs from two calls: embeds, de-embeds and modulations are per
    sequence. Padding and masked scores count, since they are computed.

    Args:
      model, cond, guide: the network and its two modes, without adapters.
      batch: images; the result is for all of them.
      rows, length: of the layout (see `sampling.packing`).
      text: tokens of the conditions of a row.
    """
    modes, d, ratio = (cond, guide), model.width, model.mlp_ratio
    in_rows = rows * row_macs(d, length, ratio, text)
    apart = sum(row_macs(d, tokens(model.latent, patch), ratio, text_tokens(model)) for patch in modes)
    calls = sum(forward_flops(model, patch) for patch in modes)
    return batch * calls + 2 * model.depth * (in_rows - batch * apart)
