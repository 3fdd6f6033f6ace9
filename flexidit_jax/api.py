"""A model ready to predict and to sample; `loading` makes one of whatever holds one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.arguments import finite_array, path_of, shown, typed
from flexidit_jax.common.build import Section
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.program_cache import keep_session_programs
from flexidit_jax.common.trees import count
from flexidit_jax.common.types import Array, Params, Patch, Prediction, as_patch, patch_name, short_patch_name
from flexidit_jax.convert.publish import write_mode
from flexidit_jax.convert.saved import write_saved
from flexidit_jax.diffusion.process import NoiseProcess, read_by
from flexidit_jax.models import adapters as lora
from flexidit_jax.models.build import describe, recorded_dit
from flexidit_jax.models.conditioning.condition import Condition, parsed, size
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flexify import adapter_rank, at, flexify, patches_of
from flexidit_jax.models.flops import FlopCount, forward_flops, kept_flops
from flexidit_jax.models.patch import as_video, grid
from flexidit_jax.sampling.asked import conditions, features, fitting
from flexidit_jax.sampling.engine import Engine
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.sampler import Sampler
from flexidit_jax.sampling.sizes import Size, size_of
from flexidit_jax.sampling.snapshot import NotFinite, Snapshot, gathered
from flexidit_jax.sampling.spec import SampleSpec
from flexidit_jax.sampling.takes_spec import takes_spec

#: what `import flexidit_jax` offers beside `loading.load`
__all__ = ["FlexiDiT", "FlopCount", "NotFinite", "Prediction", "SampleSpec", "UserError"]


@dataclasses.dataclass(frozen=True)
class FlexiDiT:
    """A DiT with one or more patch sizes, ready to predict and to sample.

    Attributes:
      model: the network (`models.dit.DiT`).
      params: the stored tree (`models.flexify`); of a model that was loaded, on the host.
      process: the noise process (the `Process` of `diffusion.gaussian`, `diffusion.flow` or `diffusion.sit`).
      codec: turns latents into data; None when unknown, then only `decode=False` samples.
      merge_adapters: sample with adapters added into the kernels (no FLOPs, a copy of the adapted
        layers per mode); False runs them beside the kernels (`dataclasses.replace` makes either).
      devices: how many of this process's devices `sample` splits every batch over (`common.data_parallel`).
      text: turns prompts into features, for a model of texts (`text.t5.Encoder`); None where there is none.
    """

    model: DiT
    params: Params
    process: NoiseProcess
    codec: Any
    merge_adapters: bool = True
    devices: int = 1
    text: Any = None

    def __post_init__(self) -> None:
        for name, kind in (("merge_adapters", "bool"), ("devices", "int")):
            object.__setattr__(self, name, typed(getattr(self, name), kind, name))
        object.__setattr__(self, "text", fitting(self.text, self.model.conditioner))

    @classmethod
    def of(cls, config: Section, params: Params, process: NoiseProcess) -> FlexiDiT:
        """A model out of what `convert.read_model` reads: its sections `model` and `codec`, and its stored tree."""
        model = recorded_dit(config["model"])
        codec = config["codec"] and build.part("flexidit_jax.codecs", "Codec", config["codec"], "codec")
        text = config.get("text") and build.part("flexidit_jax.text", "Encoder", config["text"], "text")
        return cls(model.at(patches_of(params)[0]), params, process, codec, text=text)

    @property
    def patches(self) -> tuple[Patch, ...]:
        """The modes, powerful first."""
        return patches_of(self.params)

    @property
    def pixels(self) -> tuple[int, ...] | None:
        """Height and width of pictures; None without a codec, which tells."""
        return self.codec and tuple(self.codec.data_shape(self.model.latent)[1:3])

    @cached_property
    def _engine(self) -> Engine:
        keep_session_programs()
        return Engine(self.model, self.params, self.patches, self.merge_adapters, self.devices)

    @cached_property
    def _resident(self) -> Params:
        """The stored tree on the device, for `predict` alone: sampling has weights of its own."""
        with jax.ensure_compile_time_eval():  # the first call may be one that is traced
            return jax.device_put(self.params)

    @cached_property
    def sampler(self) -> Sampler:
        """Samples a step at a time: `start`, `step`, `run` (`sampling.sampler`); what `sample` and `steps` use."""
        adapters = adapter_rank(self.params) is not None
        return Sampler(self._engine, self.process, self._cost, adapters, lambda: self.pixels)

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
          UserError: a patch that does not divide the latent or is smaller than the pre-trained one, or a rank above the
            model's width.
        """
        if isinstance(patches, str) or not isinstance(patches, Collection) or not len(patches):
            raise UserError(f"patches must be a sequence of patch sizes such as (2, 4), got {shown(patches)}")
        wanted = [as_patch(patch) for patch in (patches.tolist() if hasattr(patches, "tolist") else patches)]
        for patch in wanted:
            grid(self.model.latent, patch)
        adapters = typed(adapters, "int | None", "adapters")
        if adapters is not None and not 1 <= adapters <= self.model.width:
            raise UserError(f"adapters must be a rank in 1..{self.model.width}, the model's width, got {adapters}")
        return dataclasses.replace(self, params=flexify(self.params, wanted, adapters))

    def sized(self, latent: Sequence[int]) -> FlexiDiT:
        """The same model for latents of another height and width; both sample with the same weights.

        Positions, noise, FLOPs, what the network is told of the size, and what is drawn are those of the size.

        Args:
          latent: (F, H, W, C), of which H and W may be others than `model.latent` has.

        Raises:
          UserError: a model whose positions count patches, or sides that a mode does not divide.
        """
        model = self.model.sized(tuple(latent))
        for patch in self.patches:
            grid(model.latent, patch)
        other = dataclasses.replace(self, model=model)
        vars(other)["_engine"] = self._engine.sized(model.latent)
        if "_resident" in vars(self):
            vars(other)["_resident"] = self._resident
        return other

    def of_size(self, specs: Sequence[SampleSpec]) -> tuple[FlexiDiT, list[SampleSpec]]:
        """The model for latents of the size that specs ask for, and the specs with that size in pixels.

        Raises:
          UserError: see `sampling.sizes.size_of`.
        """
        words = [Size(spec.size, spec.aspect, spec.frames) for spec in specs]
        if (found := size_of(words, self.model, self.codec, self.patches)) is None:
            return self, list(specs)
        size, latent = found
        flex = self if latent == self.model.latent else self.sized(latent)
        return flex, [dataclasses.replace(spec, **size._asdict()) for spec in specs]

    def predict(self, x: Array, t: Array, labels: Any, patch: int | str | tuple[int, ...] | None = None) -> Prediction:
        """One call of the network.

        Args:
          x: [B, H, W, C] or [B, F, H, W, C]; of any height and width that the patch divides, where the model has a
            span.
          t: [B], times that the process tells a network: 0..T-1, or real numbers between (of a flow 0..T; of a SiT from
            noise at 0 to data at 1).
          labels: [B], what the conditioner reads (classes: 0..classes, the last or None meaning none), or a condition.
          patch: the mode; the most powerful by default.

        Returns:
          Prediction(output, variance), each shaped like x; variance None where the process learns none.

        Raises:
          UserError: x of another latent shape, x or t that are not finite, times or labels out of range, or a mode the
            model lacks.
        """
        video = self._as_video(x, "x")
        mode, model = self._mode(patch), self.model.sized(video.shape[1:])
        cond = parsed(model.conditioner, labels)
        t = finite_array(t, "t")
        if np.shape(t) != (len(video),) or size(cond) != len(video):
            raise UserError(f"x, t and labels must be as many: {len(video)}, shape {np.shape(t)}, {size(cond)}")
        low, high = self.process.times
        if not isinstance(t, jax.core.Tracer) and not low <= np.min(t) <= np.max(t) <= high:
            raise UserError(f"t must lie in {low}..{high}, the times of the process, got {np.min(t)}..{np.max(t)}")
        out = _predict(model.at(mode), self._resident, mode, jnp.asarray(video), jnp.asarray(t), cond)
        out = read_by(self.process, out)
        return Prediction(*(None if part is None else part.reshape(np.shape(x)) for part in out))

    @takes_spec(
        "steps schedule guide budget guidance weak_guidance guidance_interval weak solver latency_ms batch packing"
        " guidance_channels"
    )
    def plan(self, spec: SampleSpec, batch: int | None = None) -> Plan:
        """What every step of a `sample` call with the same spec runs; `batch` matters with `latency_ms` alone."""
        return self.sampler.plan(spec, batch)

    @takes_spec("steps schedule guide")
    def meant(self, spec: SampleSpec, batch: int | None = None) -> SampleSpec:
        """The spec with the model's own steps, solver and guidance where it leaves them open."""
        return self.sampler.meant(spec, batch)

    @takes_spec("steps schedule guide")
    def flops(self, spec: SampleSpec, batch: int | None = None, text_kept: bool = False) -> FlopCount:
        """FLOPs per sample of a `sample` call with the same spec; every evaluation counts, padding does not.

        A text's own layers, keys and values count in every evaluation, as the paper has it; with `text_kept` once for
        each of the texts that are read, as sampling makes them.
        """
        chosen, kept = self.plan(spec=spec, batch=batch), typed(text_kept, "bool", "text_kept")
        of_null = any(cond == guide for cond, guide in chosen.pairs)
        once = kept_flops(self.model) * (1 + of_null) if kept else 0
        return chosen.flops(self.patches[0], partial(self._cost, text_kept=kept), once)

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
        images_per_prompt: int = 1,
    ) -> np.ndarray:
        """Samples one image (or clip) per label or prompt.

        Args:
          labels: B of them: numbers, None for no class, or names where the model knows them; `"0-3"` is a range. Of a
            model of texts prompts, or their `features`. Or a ready condition.
          spec: how (see `SampleSpec`), for all or one a sample; its keys are keywords of this method too, in place of
            the spec's own.
          negative: what guidance leads away from, instead of from no condition: one for all, or one a sample.
          batch: samples per call of the network, over all devices; all at once by default.
          first: number of the first sample, to continue a seed's sequence.
          noise: x_T instead of drawn noise, [B, H, W, C] or [B, F, H, W, C].
          step_noise: noise of each executed step instead of drawn noise, [steps, *noise.shape].
          decode: False returns latents.
          progress: show a bar over steps, or what to call after each step of each batch.
          images_per_prompt: of each label or prompt, one after the other.

        Returns:
          uint8 [B, H, W, channels] ([B, F, H, W, channels] for video), or float32 latents.

        Raises:
          UserError: labels, words or shapes that do not fit the model or each other.
          NotFinite: samples that became NaN or infinite; it holds all images, and says which failed.
        """
        if typed(decode, "bool", "decode"):
            self._check_codec()
        asked = conditions(self.sampler, self.text, labels, spec, negative, images_per_prompt)
        chain = self.sampler.batches(*asked, batch, first, noise, step_noise, progress)
        clips = self.model.latent[0] > 1 or np.ndim(noise) == 5

        def made(x: Array) -> np.ndarray:
            return self.decode(x) if decode else np.asarray(x) if clips else np.asarray(x)[:, 0]

        return gathered(chain, made)

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
        images_per_prompt: int = 1,
    ) -> Iterator[Snapshot]:
        """What `sample` does, step by step: for previews and streams; to cancel, stop iterating.

        Args:
          labels, spec, negative, batch, first, noise, step_noise, progress, images_per_prompt: see `sample`.

        Yields:
          A `Snapshot` of a batch after each of its steps, then those of the next batch; `decode` makes pictures of its
          `x0`, the estimate so far, and of `x` once it is finished.

        Raises:
          UserError: see `sample`; at once, not at the first step.
          NotFinite: see `sample`; after the last step of the last batch. Of a batch, `Snapshot.failed` tells.
        """
        asked = conditions(self.sampler, self.text, labels, spec, negative, images_per_prompt)
        return map(Snapshot.cut, self.sampler.batches(*asked, batch, first, noise, step_noise, progress))

    def features(self, prompts: Sequence[str]) -> list[np.ndarray]:
        """Texts as a model of texts reads them, float32 [m, k] each; `sample` takes them in place of prompts.

        The memory of the encoder is given back: who draws of the same prompts again need not read it again.

        Raises:
          UserError: a model of something else, no encoder, or what that does not read.
        """
        return features(self.model.conditioner, self.text, prompts)

    def decode(self, latents: Array) -> np.ndarray:
        """Latents [B, F, H, W, C], of images also [B, H, W, C], as data: uint8 [B, H, W, channels], with F for video.

        Raises:
          UserError: no codec, one whose weights are missing, or latents of another shape or not finite.
        """
        self._check_codec()
        data = self.codec.decode(jnp.asarray(self._as_video(latents, "latents")))
        return data[:, 0] if self.model.latent[0] == 1 else data

    def _as_video(self, x: Array, name: str) -> Array:
        return as_video(x, self.model.latent, name, free=self.model.free)

    def _check_codec(self) -> None:
        if self.codec is None:
            raise UserError("this model has no codec to decode its latents with; pass decode=False for latents")
        self.codec.check()

    @property
    def sampling_bytes(self) -> int:
        """Bytes of weights held for sampling: every distinct array of every mode, once."""
        return self._engine.weight_bytes()

    def export(
        self,
        path: str | Path,
        patch: int | str | tuple[int, ...] | None = None,
        overwrite: bool = False,
        adapters_only: bool = False,
    ) -> None:
        """Writes one mode by the published layout of its kind (DiT, PixArt, Wan), which other programs read.

        Args:
          path: `.safetensors` or `.pt` (with torch), or a folder for diffusers.
          patch: the mode; the most powerful by default.
          overwrite: replace another model that is there.
          adapters_only: write the mode's LoRA, which is otherwise merged: a `.safetensors` file, or PEFT's folder.

        Raises:
          UserError: a mode the layout cannot hold, another model at the path, or one that cannot be written.
        """
        flags = typed(overwrite, "bool", "overwrite"), typed(adapters_only, "bool", "adapters_only")
        write_mode(path_of(path, "path"), self.model, self.params, self._mode(patch), *flags)

    def save(self, path: str | Path, adapters_only: bool = False, overwrite: bool = False) -> None:
        """Writes `config.json` and `model.safetensors` into a folder that `load` reads.

        Args:
          path: the folder.
          adapters_only: leave the pre-trained weights out; `load` then wants these, and refuses others, as `base=`.
          overwrite: replace another model that is there.

        Raises:
          UserError: another model is there, the folder cannot be written, or there are no adapters.
        """
        folder, adapters_only = path_of(path, "path"), typed(adapters_only, "bool", "adapters_only")
        write_saved(folder, self.sections, self.params, adapters_only, typed(overwrite, "bool", "overwrite"))

    @property
    def sections(self) -> dict[str, Any]:
        """What `of` makes this model of, without its weights."""
        return {
            "model": describe(self.model),
            "process": build.describe(self.process),
            "codec": None if self.codec is None else build.describe(self.codec),
            **({} if self.text is None else {"text": build.describe(self.text)}),
        }

    def _mode(self, patch: int | str | tuple[int, ...] | None) -> Patch:
        """A mode of this model, the most powerful by default."""
        mode = self.patches[0] if patch is None else as_patch(patch)
        if mode not in self.patches:
            known = ", ".join(map(short_patch_name, self.patches))
            raise UserError(f"patch: the model has no mode {short_patch_name(mode)}; it has {known}")
        return mode

    def _cost(self, patch: Patch, text_kept: bool = False) -> int:
        rank = lora.rank_of(self.params["modes"][patch_name(patch)]) or 0
        return forward_flops(self.model, patch, 0 if self.merge_adapters else rank, text_kept)


@partial(jax.jit, static_argnames=("model", "patch"))
def _predict(model: DiT, params: Params, patch: Patch, x: Array, t: Array, cond: Condition) -> Prediction:
    return model.apply({"params": at(params, patch)}, x, t, cond)
