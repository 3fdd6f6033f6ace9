"""A DiT from a config's `model` section, and back; its first parameters."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from flexidit_jax.common import build
from flexidit_jax.common.arguments import shown
from flexidit_jax.common.axes import platform
from flexidit_jax.common.build import Section
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array, Params, as_patch
from flexidit_jax.models.attention.backend import NAMES, chosen
from flexidit_jax.models.dit import REMAT, DiT
from flexidit_jax.models.modulation import SOURCES
from flexidit_jax.models.patch import grid, tokens

#: width, depth, heads of the published models (DiT table 1)
SIZES = {"S": (384, 12, 6), "B": (768, 12, 12), "L": (1024, 24, 16), "XL": (1152, 28, 16)}
DTYPES = ("float32", "bfloat16")
POSITIONS = ("sincos", "rope")
#: of a config's section, what speaks of the machine it is for: no part of what a model is
MACHINE = ("attention", "remat", "unroll")


def build_dit(
    latent: tuple[int, int, int, int],
    conditioner: Section,
    patch: int | str | tuple[int, ...] = 2,
    size: str | None = None,
    width: int | None = None,
    depth: int | None = None,
    num_heads: int | None = None,
    mlp_ratio: float = 4,
    learn_variance: bool = True,
    modulation: str = "block",
    positions: str = "sincos",
    span: float | None = None,
    qk_norm: str | None = None,
    cross_norm: bool = False,
    time_features: int = 256,
    dtype: str = "float32",
    residual: str = "float32",
    attention: str = "auto",
    remat: str = "none",
    unroll: int = 1,
) -> DiT:
    """A DiT from a config's `model` section.

    Args:
      latent: (F, H, W, C) of what is denoised; an image has F = 1.
      conditioner: its name (a module of `models/conditioning`) and keywords.
      patch: the pre-trained patch size.
      size: "S", "B", "L" or "XL"; or give width, depth and num_heads.
      width, depth, num_heads, mlp_ratio, learn_variance, modulation, positions, span, qk_norm, cross_norm,
        time_features, dtype, residual, attention, remat, unroll: see `DiT`.

    Raises:
      UserError: a size or value outside its choices, or a patch that does not divide the latent.
    """
    if size is not None:
        if size not in SIZES:
            raise UserError(f"unknown model.size {size!r}; known: {', '.join(SIZES)}")
        width, depth, num_heads = (
            preset if given is None else given for given, preset in zip((width, depth, num_heads), SIZES[size])
        )
    if width is None or depth is None or num_heads is None:
        raise UserError("give model.size (S, B, L or XL), or model.width, model.depth and model.num_heads")
    counts = {"width": width, "depth": depth, "num_heads": num_heads, "mlp_ratio": mlp_ratio, "unroll": unroll}
    build.positive("model", **counts, time_features=time_features)
    if width % num_heads or width % 4:
        raise UserError(f"model.width must be a multiple of 4 and of model.num_heads={num_heads}, got {width}")
    choices = {
        "dtype": (dtype, DTYPES),
        "residual": (residual, DTYPES if dtype == "bfloat16" else ("float32",)),
        "attention": (attention, NAMES),
        "remat": (remat, tuple(REMAT)),
        "modulation": (modulation, SOURCES),
        "positions": (positions, POSITIONS),
        "qk_norm": (qk_norm, (None, "rms")),
    }
    if positions == "rope" and (span is not None or (width // num_heads) % 2):
        found = f"{span} and {width // num_heads}"
        raise UserError(f"model.positions='rope' wants no model.span and heads of an even width, got {found}")
    if span is not None and not 0 < span < math.inf:
        raise UserError(f"model.span must be a positive number, or None for positions of DiT, got {span!r}")
    for key, (value, known) in choices.items():
        if value not in known:
            beside = f" beside model.dtype={dtype!r}" if key == "residual" else ""
            raise UserError(f"model.{key} must be one of {', '.join(map(str, known))}{beside}, got {value!r}")
    sides = tuple(latent) if isinstance(latent, (tuple, list)) else ()
    if len(sides) != 4 or not all(isinstance(side, int) and 0 < side < 2**31 for side in sides):
        raise UserError(f"model.latent must be (frames, height, width, channels), got {shown(sides or latent)}")
    base = as_patch(patch)
    grid(tuple(latent), base)
    if "width" in conditioner:
        raise UserError("unknown config key 'model.conditioner.width'; it is model.width")
    module = build.part(
        "flexidit_jax.models.conditioning", "Conditioner", {**conditioner, "width": width}, "model.conditioner"
    )
    return DiT(
        latent=tuple(latent),
        patch=base,
        base_patch=base,
        width=width,
        depth=depth,
        num_heads=num_heads,
        conditioner=module,
        mlp_ratio=mlp_ratio,
        learn_variance=learn_variance,
        modulation=modulation,
        positions=positions,
        span=span,
        qk_norm=qk_norm,
        cross_norm=cross_norm,
        time_features=time_features,
        dtype=dtype,
        residual=residual,
        attention=attention,
        remat=remat,
        unroll=unroll,
    )


def init(model: DiT, key: Array) -> Params:
    """Plain DiT parameters, randomly initialised: a nested dict, blocks stacked on axis 0."""
    x, t = model.example(1)
    cond = model.conditioner.parse([None])
    return dict(jax.jit(model.init)(key, x, t, cond)["params"])


def recorded_dit(section: Any) -> DiT:
    """The DiT that a record describes, whatever it says of the machine that it was made on.

    Raises:
      UserError: see `build_dit`.
    """
    if isinstance(section, Mapping):
        section = {key: value for key, value in section.items() if key not in MACHINE}
    return build.call(build_dit, section, "model")


def attention_of(model: DiT) -> str:
    """The file of `models.attention` that computes a model's attention on this machine."""
    shape = (1, tokens(model.latent, model.patch), model.num_heads, model.width // model.num_heads)
    return chosen(model.attention, platform(), jnp.dtype(model.dtype), shape, shape)


def describe(model: DiT) -> dict[str, Any]:
    """The `build_dit` keywords that make this model again, but for `MACHINE`; JSON-ready."""

    def fields(module: nn.Module) -> dict[str, Any]:
        return {f.name: getattr(module, f.name) for f in dataclasses.fields(module) if f.name not in ("parent", "name")}

    settings = {key: value for key, value in fields(model).items() if key not in MACHINE}
    conditioner = settings.pop("conditioner")
    named = {"name": type(conditioner).__module__.rsplit(".", 1)[-1], **fields(conditioner)}
    del named["width"]
    settings["patch"] = settings.pop("base_patch")
    return {**settings, "conditioner": named}
