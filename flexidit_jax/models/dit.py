"""The plain DiT: arrays in, arrays out, one patch size at a time."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.axes import laid, split
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Array, Patch, Prediction
from flexidit_jax.models.attention.kept import Kept
from flexidit_jax.models.attention.seen import finite_only
from flexidit_jax.models.blocks import Block, Final
from flexidit_jax.models.conditioning.condition import Condition, Context
from flexidit_jax.models.layers import NumberEmbedding, project
from flexidit_jax.models.layout import Layout, source_in
from flexidit_jax.models.modulation import Modulations, Projection, Shared
from flexidit_jax.models.patch import patchify, unpatchify
from flexidit_jax.models.position import position_embedding, rotations

REMAT = {"none": None, "full": None, "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable}


class Embed(nn.Module):
    """The patch embedding; the kernel keeps its patch axes so that it can be resized."""

    patch: Patch
    width: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        tokens = patchify(x, self.patch)  # [B, N, pf ph pw C]
        init = nn.initializers.variance_scaling(1.0, "fan_avg", "uniform", in_axis=(0, 1, 2, 3), out_axis=4)
        kernel = self.param("kernel", init, (*self.patch, x.shape[-1], self.width), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.width,), jnp.float32)
        return project(tokens, kernel.reshape(-1, self.width), self.dtype) + bias  # [B, N, d]


class DeEmbed(nn.Module):
    """The last linear layer, one patch of `channels` a token, zero-initialised."""

    patch: Patch
    channels: int
    dtype: jnp.dtype

    @nn.compact
    def __call__(self, x: Array, latent: tuple[int, ...]) -> Array:
        zeros, d = nn.initializers.zeros, x.shape[-1]
        kernel = self.param("kernel", zeros, (d, *self.patch, self.channels), jnp.float32)
        bias = self.param("bias", zeros, (*self.patch, self.channels), jnp.float32)
        x = project(x, kernel.reshape(d, -1), self.dtype)  # [B, N, pf ph pw channels]
        return unpatchify(x.astype(jnp.float32) + bias.reshape(-1), self.patch, latent)  # [B, F, H, W, channels]


class DiT(nn.Module):
    """A diffusion transformer (arXiv 2212.09748).

    Parameters are float32; the insides of norms and softmax, and times too. `dtype` is that of the matrix products and
    of what lies between them, and "float32" means float32 on every backend.

    Attributes:
      latent: (F, H, W, C) of x; an image has F = 1.
      patch: the patch size in use.
      base_patch: p0, the patch size of pre-training; sets the unit of token positions.
      width: d, channels of a token; a multiple of 4 and of `num_heads`.
      depth: blocks.
      num_heads: attention heads of a block.
      conditioner: module of `models.conditioning`, which reads the condition.
      mlp_ratio: the hidden layer of a block's MLP is so many times as wide, rounded.
      learn_variance: twice the output channels, the second half being v.
      modulation: of the blocks, "block" or "single": see `models.modulation`.
      positions: "sincos", features that are added to tokens; or "rope", angles by which queries and keys turn.
      span: None: positions count patches p0; a number: those of rows and columns span so many units, whatever their
        number (`models.position`).
      qk_norm: of queries and keys, None or "rms": see `models.attention.attention`.
      cross_norm: whether tokens of a condition are read behind a norm with a gain and shift of its own.
      time_features: sin-cos features of a time.
      dtype: of the products of matrices, "float32" or "bfloat16".
      residual: of the stream that blocks add to, "float32" or `dtype`.
      attention: "auto": the fused kernel that suits what is compiled for, else "xla"; or that by name (see
        `models.attention.backend`): "xla", "cudnn" or "splash".
      remat: "none"; "dots" (keep the products with weights, compute attention again); or "full" (keep only block
        inputs).
      unroll: blocks compiled per scan iteration; more is faster for small models, slower to compile. Sampling on a CPU
        or GPU has no scan.
    """

    latent: tuple[int, int, int, int]
    patch: Patch
    base_patch: Patch
    width: int
    depth: int
    num_heads: int
    conditioner: nn.Module
    mlp_ratio: float = 4
    learn_variance: bool = True
    modulation: str = "block"
    positions: str = "sincos"
    span: float | None = None
    qk_norm: str | None = None
    cross_norm: bool = False
    time_features: int = 256
    dtype: str = "float32"
    residual: str = "float32"
    attention: str = "auto"
    remat: str = "none"
    unroll: int = 1

    def setup(self) -> None:
        dtype, channels = jnp.dtype(self.dtype), self.latent[-1]
        self.embed = Embed(self.patch, self.width, dtype)
        self.timestep = NumberEmbedding(self.width, self.time_features)
        self.projection = Projection(self.modulation)
        self.blocks = Block(*self._block)
        self.final = Final(self.width, dtype, self.modulation)
        self.deembed = DeEmbed(self.patch, channels * (2 if self.learn_variance else 1), dtype)

    def __call__(
        self, x: Array, t: Array, cond: Condition | Context, modulations: Modulations | None = None
    ) -> Prediction:
        """Predicts from x_t.

        Args:
          x: [B, F, H, W, C].
          t: [B], times of the noise process, a Gaussian one's 0..T-1; or [1] for the whole batch, which is cheaper.
          cond: of B samples, see `models.conditioning.condition`; or the context of it.
          modulations: those of t and cond, of `modulations`, made before; else every block makes its own.

        Returns:
          output [B, F, H, W, C] float32 and, when learned, variance of the same shape.
        """
        x, context = self.tokens(x), self.context(cond)
        if modulations is not None:
            return self.read(self.trunk(x, modulations.blocks, None, self.rope, context), modulations.last)
        shared = self.shared(t, context.vector)
        return self.read(self.trunk(x, shared, None, self.rope, context), self.last(shared))

    def tokens(self, x: Array) -> Array:
        """The first part: patches, positions and the mode's embedding, [B, F, H, W, C] -> [B, N, d]."""
        with self._precision():
            sizes, x = x.shape[1:], self.embed(x)  # [B, N, d]
            if self.positions == "sincos":
                x = x + position_embedding(sizes, self.patch, self.base_patch, self.width, self.span)
            x = laid(x, "records", split(self.num_heads)[0])
            if self.has_variable("params", "patch_embedding"):  # optional: see models.flexify
                x = x + self.get_variable("params", "patch_embedding")
            return x.astype(self.residual)

    def context(self, cond: Condition | Context) -> Context:
        """What is read of a condition; a context is what it is."""
        with self._precision():
            return cond if isinstance(cond, Context) else self.conditioner(cond)

    def kept(self, cond: Condition, apart: bool) -> Context:
        """The context of a condition as steps read it: what every block reads of its tokens, in their place.

        Args:
          apart: of each block by itself, instead of [B, L, M, h, e] of all.
        """
        with self._precision():
            context = self.context(cond)
            if context.tokens is None:
                return context
            every = nn.vmap(
                lambda block, tokens: block.kept(tokens), variable_axes={"params": 0}, split_rngs={"params": True},
                in_axes=None, axis_size=self.depth,
            )  # fmt: skip
            k, v = (jnp.moveaxis(part, 0, 1) for part in every(self.blocks, context.tokens))  # [B, L, M, h, e]
            finite = None
            if context.mask is not None:  # else a token that is no number is seen by all
                k, v, finite = finite_only(k, v, (1, -2, -1))
            kept = tuple(Kept(k[:, i], v[:, i]) for i in range(self.depth)) if apart else Kept(k, v)
            return context._replace(tokens=None, kept=kept, finite=finite)

    def shared(self, t: Array, vector: Array | None) -> Shared:
        """What every modulation begins with, [B, ...] each."""
        with self._precision():
            embedded = self.timestep(t)
            return self.projection(embedded if vector is None else embedded + vector)

    def last(self, shared: Shared) -> Array:
        """The modulation of the last norm, [B, 2, d]."""
        with self._precision():
            return self.final.modulated(shared.last)

    def modulations(self, t: Array, cond: Condition | Context) -> Modulations:
        """All modulations of t and cond, those of the blocks by one product: [L, B, 6, d] and [B, 2, d]."""
        with self._precision():
            shared = self.shared(t, self.context(cond).vector)
            every = nn.vmap(
                lambda block, part: block.modulated(part), variable_axes={"params": 0}, split_rngs={"params": True}
            )
            blocks = jnp.broadcast_to(shared.blocks, (self.depth, *shared.blocks.shape))
            made = Modulations(every(self.blocks, blocks), self.last(shared))
            return jax.tree.map(lambda part: part.astype(self.dtype), made)

    @nn.compact
    def trunk(
        self, x: Array, modulation: Shared | Array, layout: Layout | None, rope: Array | None, *contexts: Context
    ) -> Array:
        """The blocks.

        Args:
          x: [B, N, d]; with a layout its rows [R, L, d].
          modulation: what it begins with, of which each block makes its own; or ready, [L, B, 6, d], with a layout
            [L, ..., 6, d], one a sequence. Where blocks have a subtree each, ready ones.
          layout: None where a row is one sequence.
          rope: by what tokens turn, [2, N, e/2]; with a layout [2, R, L, e/2]; None where they do not.
          contexts: of the condition; with a layout one a mode.

        Returns:
          Shaped like x.
        """
        shared, source = isinstance(modulation, Shared), source_in(layout, x.shape[1], *contexts)

        def one(block: Block, x: Array, each: tuple[Array | None, Array | None]) -> tuple[Array, None]:
            number, ready = each
            return block(x, block.modulated(modulation.blocks) if shared else ready, layout, source, number, rope), None

        if self.remat != "none":
            one = nn.remat(one, prevent_cse=False, policy=REMAT[self.remat])
        with self._precision():
            if self.has_variable("params", "blocks_0"):  # a subtree a block, as sampling may have them
                for i in range(self.depth):
                    x = Block(*self._block, name=f"blocks_{i}")(x, modulation[i], layout, source, i, rope)
                return x
            every = nn.scan(
                one, variable_axes={"params": 0}, split_rngs={"params": True}, length=self.depth, unroll=self.unroll
            )
            numbers = None if source is None else jnp.arange(self.depth)
            return every(self.blocks, x, (numbers, None if shared else modulation))[0]

    def read(self, x: Array, m: Array) -> Prediction:
        """The last part: the trunk's [B, N, d] and m [B, 2, d] -> the prediction, [B, F, H, W, C] each."""
        with self._precision():
            x = laid(self.deembed(self.final(x, m), self.latent), "records")  # [B, F, H, W, C or 2C]
        if self.learn_variance:
            return Prediction(*jnp.split(x, 2, axis=-1))
        return Prediction(x, None)

    @property
    def rope(self) -> np.ndarray | None:
        """By what the mode's tokens turn, [2, N, e/2]; None where positions are added."""
        if self.positions != "rope":
            return None
        return rotations(self.latent[:3], self.patch, self.base_patch, self.width // self.num_heads)

    @property
    def hidden(self) -> int:
        """Width of the hidden layer of an MLP."""
        return round(self.mlp_ratio * self.width)

    @property
    def free(self) -> tuple[str, ...]:
        """Which of frames, height and width of a latent may be others than the model's."""
        if self.positions == "rope":
            return "frames", "height", "width"
        return () if self.span is None else ("height", "width")

    @property
    def _block(self) -> tuple[Any, ...]:
        """The fields of a block."""
        dtype = jnp.dtype(self.dtype)
        fields = self.width, self.num_heads, self.hidden, dtype, self.attention, self.modulation
        return *fields, self.qk_norm, self.cross_norm

    def _precision(self) -> AbstractContextManager[None]:
        return jax.default_matmul_precision("highest" if self.dtype == "float32" else "default")

    def at(self, patch: Patch) -> DiT:
        """The same network reading another patch size."""
        return self.clone(patch=patch)

    def sized(self, latent: tuple[int, ...]) -> DiT:
        """The same network for latents of another size, which its condition is told where it reads it.

        Raises:
          UserError: another number of frames or channels, sides that are none, or positions that count patches.
        """
        frames, height, width, channels = self.latent
        if latent == self.latent:
            return self
        if not self.free:
            raise UserError(f"a latent must be {height}x{width} for this model, whose positions count patches")
        first = "frames" if "frames" in self.free else frames
        if len(latent) != 4 or latent[-1] != channels or min(latent) < 1 or first not in ("frames", latent[0]):
            raise UserError(f"a latent must be ({first}, height, width, {channels}) for this model, got {latent}")
        grown = getattr(self.conditioner, "grown", None)
        conditioner = grown(latent[1] / height, latent[2] / width) if grown else self.conditioner
        return self.clone(latent=latent, conditioner=conditioner)

    def example(self, batch: int) -> tuple[Array, Array]:
        """Zero x and t of the right shapes, for initialisation and shape evaluation."""
        return jnp.zeros((batch, *self.latent)), jnp.zeros((batch,), jnp.int32)
