"""The public Python face: `load(path) -> FlexiDiT`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import count
from flexidit_jax.common.types import Array, Params, Patch, Prediction, as_patch, patch_name, short_patch_name
from flexidit_jax.convert.dit_layout import write_dit
from flexidit_jax.convert.publish import write_published
from flexidit_jax.convert.read_model import read_model
from flexidit_jax.convert.saved import write_saved
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.models import adapters as lora
from flexidit_jax.models.build import build_dit, describe
from flexidit_jax.models.conditioning.condition import Condition, parsed, size
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import adapter_rank, at, flexify, patches_of
from flexidit_jax.models.flops import FlopCount, forward_flops
from flexidit_jax.models.patch import as_video, grid
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.sampler import Sampler, Snapshot
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.takes_spec import takes_spec


@dataclasses.dataclass(frozen=True)
class FlexiDiT:
    """A DiT with one or more patch sizes, ready to predict and to sample.

    Attributes:
      model: the network (`models.dit.DiT`).
      params: the stored tree (`models.flexify`).
      process: the noise process (`diffusion.gaussian.Process` or `diffusion.flow.Process`).
      codec: turns latents into data; None when unknown, then only `decode=False` samples.
      merge_adapters: sample with adapters added into the kernels (no FLOPs, a copy of the adapted
        layers per mode); False runs them beside the kernels (`dataclasses.replace` makes either).
      devices: how many of this process's devices `sample` splits every batch over (`common.data_parallel`).
    """

    model: DiT
    params: Params
    process: NoiseProcess
    codec: Any
    merge_adapters: bool = True
    devices: int = 1

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The modes, powerful first."""
        return patches_of(self.params)

    @cached_property
    def _engine(self) -> Engine:
        return Engine(self.model, self.params, self.patches, self.merge_adapters, self.devices)

    @cached_property
    def sampler(self) -> Sampler:
        """Samples a step at a time: `start`, `step`, `run` (`sampling.sampler`); what `sample` and `steps` use."""
        return Sampler(self._engine, self.process, self._cost, adapters=adapter_rank(self.params) is not None)

    def __repr__(self) -> str:
        names = ", ".join(map(short_patch_name, self.patches))
        size = f"width {self.model.width}, depth {self.model.depth}, {count(self.params) / 1e6:.1f}M parameters"
        return f"FlexiDiT({size}, latent {'x'.join(map(str, self.model.latent))}, patches {names})"

    def flexify(self, patches: Sequence[int | str | tuple[int, ...]], adapters: int | None = None) -> FlexiDiT:
        """The same function at the pre-trained patch, able to run at the others too.

        The new modes still want training. At the pre-trained patch the output is preserved.

        Args:
          patches: modes such as `(2, 4)` or `((1, 2, 2), (2, 4, 4))`.
          adapters: None shares all weights between the modes; a LoRA rank gives every new mode weights of
            its own and leaves the pre-trained ones as they are, to the bit.

        Raises:
          UserError: a patch that does not divide the latent or is smaller than the pre-trained one.
        """
        if isinstance(patches, (int, str)) or not len(patches):
            raise UserError(f"patches must be a sequence of patch sizes such as (2, 4), got {patches!r}")
        wanted = [as_patch(patch) for patch in patches]
        for patch in wanted:
            grid(self.model.latent, patch)
        return dataclasses.replace(self, params=flexify(self.params, wanted, adapters))

    def predict(self, x: Array, t: Array, labels: Any, patch: int | str | tuple[int, ...] | None = None) -> Prediction:
        """One call of the network.

        Args:
          x: [B, H, W, C] or [B, F, H, W, C].
          t: [B], times 0..T-1 (of a flow, real numbers 0..T).
          labels: [B], what the conditioner reads (classes: 0..classes, the last or None meaning none), or a condition.
          patch: the mode; the most powerful by default.

        Returns:
          Prediction(output, variance), each shaped like x.

        Raises:
          UserError: x of another latent shape, labels out of range, or a mode the model lacks.
        """
        video = as_video(x, self.model.latent)
        mode = self.patches[0] if patch is None else as_patch(patch)
        cond = parsed(self.model.conditioner, labels)
        if np.shape(t) != (len(video),) or size(cond) != len(video):
            raise UserError(f"x, t and labels must be as many: {len(video)}, shape {np.shape(t)}, {size(cond)}")
        out = _predict(self.model.at(mode), self.params, mode, video, jnp.asarray(t), cond)
        return Prediction(*(None if part is None else part.reshape(x.shape) for part in out))

    @takes_spec(
        "steps schedule guide budget guidance weak_guidance guidance_interval weak solver latency_ms batch packing"
        " guidance_channels"
    )
    def plan(self, spec: SampleSpec, batch: int | None = None) -> Plan:
        """What every step of a `sample` call with the same spec runs; `batch` matters with `latency_ms` alone."""
        return self.sampler.plan(spec, batch)

    @takes_spec("steps schedule guide")
    def flops(self, spec: SampleSpec, batch: int | None = None) -> FlopCount:
        """FLOPs per sample of a `sample` call with the same spec; every evaluation counts, padding does not."""
        chosen = self.plan(spec=spec, batch=batch)
        return FlopCount(chosen.total_cost(self._cost), chosen.relative_cost(self.patches[0], self._cost))

    @takes_spec(
        "steps budget schedule guide guidance weak_guidance guidance_interval guidance_channels solver seed weak batch"
        " latency_ms packing first noise step_noise decode progress",
        several=True,
    )
    def sample(
        self,
        labels: Any,
        spec: SampleSpec | Sequence[SampleSpec],
        negative: Any = None,
        batch: int | None = None,
        first: int = 0,
        noise: Array | None = None,
        step_noise: Array | None = None,
        decode: bool = True,
        progress: bool | Callable[[], object] = True,
    ) -> np.ndarray:
        """Samples one image (or clip) per label.

        Args:
          labels: B of them: numbers, None for no class, or names where the model knows them; `"0-3"` is a range;
            or a ready condition.
          spec: how (see `SampleSpec`), for all or one a sample; its keys are keywords of this method too, in place of
            the spec's own.
          negative: what guidance leads away from, instead of from no condition: one for all, or one a sample.
          batch: samples per call of the network, over all devices; all at once by default.
          first: number of the first sample, to continue a seed's sequence.
          noise: x_T instead of drawn noise, [B, H, W, C] or [B, F, H, W, C].
          step_noise: noise of each executed step instead of drawn noise, [steps, *noise.shape].
          decode: False returns latents.
          progress: show a bar over steps, or what to call after each step of each batch.

        Returns:
          uint8 [B, H, W, channels] ([B, F, H, W, channels] for video), or float32 latents.

        Raises:
          UserError: labels, words or shapes that do not fit the model or each other.
        """
        if decode:
            self._check_codec()
        chain = self.sampler.batches(labels, spec, batch, negative, first, noise, step_noise, progress)
        made = self.decode if decode else np.asarray
        out = np.concatenate([made(snapshot.x)[: snapshot.count] for snapshot in chain if snapshot.finished])
        if noise is not None and not decode:
            return out.reshape(np.shape(noise))
        return out[:, 0] if self.model.latent[0] == 1 and not decode else out

    @takes_spec("", several=True)
    def steps(
        self,
        labels: Any,
        spec: SampleSpec | Sequence[SampleSpec],
        negative: Any = None,
        batch: int | None = None,
        first: int = 0,
        noise: Array | None = None,
        step_noise: Array | None = None,
        progress: bool | Callable[[], object] = False,
    ) -> Iterator[Snapshot]:
        """What `sample` does, step by step: for previews and streams; to cancel, stop iterating.

        Args:
          labels, spec, negative, batch, first, noise, step_noise, progress: see `sample`.

        Yields:
          A `Snapshot` of a batch after each of its steps, then those of the next batch; `decode` makes pictures of its
          `x0`, the estimate so far, and of `x` once it is finished.

        Raises:
          UserError: see `sample`; at once, not at the first step.
        """
        chain = self.sampler.batches(labels, spec, batch, negative, first, noise, step_noise, progress)
        return map(Snapshot.cut, chain)

    def decode(self, latents: Array) -> np.ndarray:
        """Latents [B, F, H, W, C], of images also [B, H, W, C], as data: uint8 [B, H, W, channels], with F for video.

        Raises:
          UserError: no codec, one whose weights are missing, or latents of another shape.
        """
        self._check_codec()
        data = self.codec.decode(as_video(latents, self.model.latent))
        return data[:, 0] if self.model.latent[0] == 1 else data

    def _check_codec(self) -> None:
        if self.codec is None:
            raise UserError("this model has no codec to decode its latents with; pass decode=False for latents")
        self.codec.check()

    @property
    def sampling_bytes(self) -> int:
        """Bytes of weights held for sampling: every distinct array of every mode, once."""
        return self._engine.weight_bytes()

    def export(
        self, path: str | Path, patch: int | str | tuple[int, ...] | None = None, overwrite: bool = False
    ) -> None:
        """Writes one mode as a DiT of a published layout, which other programs read.

        Args:
          path: `.safetensors` or `.pt` (with torch), or a folder for diffusers.
          patch: the mode; the most powerful by default.
          overwrite: replace another model that is there.

        Raises:
          UserError: a mode the layout cannot hold, another model at the path, or one that cannot be written.
        """
        mode = self.patches[0] if patch is None else as_patch(patch)
        model = self.model.at(mode)
        write_published(Path(path), model, write_dit(model, at(self.params, mode)), overwrite)

    def save(self, path: str | Path, adapters_only: bool = False, overwrite: bool = False) -> None:
        """Writes `config.json` and `model.safetensors` into a folder that `load` reads.

        Args:
          path: the folder.
          adapters_only: leave the pre-trained weights out; `load` then wants them as `base=` and
            refuses any others by the fingerprint recorded here.
          overwrite: replace another model that is there.

        Raises:
          UserError: another model is there, the folder cannot be written, or there are no adapters to save by
            themselves.
        """
        config = {
            "model": describe(self.model),
            "process": build.describe(self.process),
            "codec": None if self.codec is None else build.describe(self.codec),
        }
        write_saved(Path(path), config, self.params, adapters_only, overwrite)

    def _cost(self, patch: Patch) -> int:
        rank = lora.rank_of(self.params["modes"][patch_name(patch)]) or 0
        return forward_flops(self.model, patch, 0 if self.merge_adapters else rank)


def load(path: str | Path, num_heads: int | None = None, base: str | Path | FlexiDiT | None = None) -> FlexiDiT:
    """Loads a model from whatever holds one.

    Args:
      path: a training run's folder (its newest checkpoint, EMA weights), one step inside its
        `checkpoints`, a folder written by `save`, a DiT weight file (.safetensors, .pt), or a diffusers
        folder, whose VAE is used where it is a whole pipeline.
      num_heads: for a DiT weight file, whose tensors do not tell; published sizes need none.
      base: for a folder saved with `adapters_only`, the model they were made for.

    Raises:
      UserError: nothing there that holds a model, or a file that is damaged or of another layout.
    """

    def stored() -> Params | None:
        return load(base, num_heads).params if isinstance(base, (str, Path)) else getattr(base, "params", None)

    config, params = read_model(Path(path), num_heads, stored)
    model = build.call(build_dit, config["model"], "model")
    process = build.part("flexidit_jax.diffusion", "Process", config["process"], "process")
    codec = config["codec"] and build.part("flexidit_jax.codecs", "Codec", config["codec"], "codec")
    return FlexiDiT(model.at(patches_of(params)[0]), params, process, codec)


@partial(jax.jit, static_argnames=("model", "patch"))
def _predict(model: DiT, params: Params, patch: Patch, x: Array, t: Array, cond: Condition) -> Prediction:
    return model.apply({"params": at(params, patch)}, x, t, cond)
