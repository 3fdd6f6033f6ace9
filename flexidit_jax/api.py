"""The public Python face: `load(path) -> FlexiDiT`."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.progress import Progress
from flexidit_jax.common.trees import count
from flexidit_jax.common.types import Array, Params, Patch, Prediction, as_patch, patch_name, short_patch_name
from flexidit_jax.convert.diffusers_layout import is_diffusers_folder, read_folder
from flexidit_jax.convert.dit_layout import read_dit, write_dit
from flexidit_jax.convert.export import write_published
from flexidit_jax.convert.files import WEIGHT_SUFFIXES, read_state_dict
from flexidit_jax.convert.saved import WEIGHTS, read_saved, write_saved
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.models import adapters as lora
from flexidit_jax.models.dit import DiT, build_dit, describe
from flexidit_jax.models.flexify import adapter_rank, at, flexify, patches_of
from flexidit_jax.models.flops import FlopCount, forward_flops
from flexidit_jax.models.patch import grid
from flexidit_jax.sampling.calibration import fastest, times_of
from flexidit_jax.sampling.engine import Engine, starting_noise
from flexidit_jax.sampling.latency import chooser
from flexidit_jax.sampling.packing import choices
from flexidit_jax.sampling.plan import Plan, plan


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
      devices: how many of this process's devices `sample` splits every batch over (`sampling.spread`).
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
          labels: [B], what the conditioner reads (classes: 0..classes, the last or None meaning none).
          patch: the mode; the most powerful by default.

        Returns:
          Prediction(output, variance), each shaped like x.

        Raises:
          UserError: x of another latent shape, labels out of range, or a mode the model lacks.
        """
        video = self._as_video(x)
        mode = self.patches[0] if patch is None else as_patch(patch)
        cond = self.model.conditioner.parse(labels)
        if np.shape(t) != (len(video),) or len(cond) != len(video):
            raise UserError(f"x, t and labels must be as many: {len(video)}, shape {np.shape(t)}, {len(cond)}")
        out = _predict(self.model.at(mode), self.params, mode, video, jnp.asarray(t), cond)
        return Prediction(*(None if part is None else part.reshape(x.shape) for part in out))

    def plan(
        self,
        steps: int = 250,
        schedule: str | None = None,
        guide: str | None = None,
        budget: float | None = None,
        guidance: float | str = 1.5,
        weak_guidance: float | str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        weak: int | str | tuple[int, ...] | None = None,
        solver: str | Mapping[str, Any] = "ddpm",
        latency_ms: float | None = None,
        batch: int | None = None,
        packing: str = "separate",
        guidance_channels: int | None = None,
    ) -> Plan:
        """What every step of a `sample` call with the same words runs.

        `batch`, `packing` and `guidance_channels` matter with `latency_ms` alone; there `batch` must be given.
        """
        layouts = choices(packing, adapters=adapter_rank(self.params) is not None)
        table, choose = make_table(solver, self.process, steps), None
        if latency_ms is not None:
            choose = chooser(latency_ms, self._engine, table, batch, layouts, guidance_channels)
        return plan(
            self.patches,
            self._cost,
            times=table.times,
            schedule=schedule,
            budget=budget,
            guide=guide,
            guidance=guidance,
            weak_guidance=weak_guidance,
            guidance_interval=guidance_interval,
            weak=None if weak is None else as_patch(weak),
            evaluations=table.evaluations,
            choose=choose,
        )

    def flops(self, steps: int = 250, schedule: str | None = None, guide: str | None = None, **words: Any) -> FlopCount:
        """FLOPs per sample of a `sample` call with the words of `plan`; every evaluation counts, padding does not."""
        chosen = self.plan(steps, schedule, guide, **words)
        return FlopCount(chosen.total_cost(self._cost), chosen.relative_cost(self.patches[0], self._cost))

    def sample(
        self,
        labels: Any,
        steps: int = 250,
        budget: float | None = None,
        schedule: str | None = None,
        guide: str | None = None,
        guidance: float | str = 1.5,
        weak_guidance: float | str | None = None,
        guidance_interval: tuple[float, float] | None = None,
        guidance_channels: int | None = None,
        solver: str | Mapping[str, Any] = "ddpm",
        seed: int = 0,
        weak: int | str | tuple[int, ...] | None = None,
        batch: int | None = None,
        latency_ms: float | None = None,
        packing: str = "separate",
        first: int = 0,
        noise: Array | None = None,
        step_noise: Array | None = None,
        decode: bool = True,
        progress: bool | Callable[[], object] = True,
    ) -> np.ndarray:
        """Samples one image (or clip) per label.

        Args:
          labels: B of them: numbers, None for no class, or names where the model knows them.
          steps: denoising steps.
          budget: share of the FLOPs of running every step powerful; the weak-first schedule nearest at
            or below it is used.
          schedule: instead of a budget, `"4:120,2:130"`: patch:steps in the order executed; or the
            paper's `"x/y"`: the last x conditional and the last y guiding steps powerful.
          guide: schedule of the guide, None meaning the same; never more powerful than `schedule`. `none`
            stands for steps without a guide: `"none:50,4:200"`.
          guidance: s1 of FlexiDiT section 3.4, for all steps or by stretches: `"1:50,1.5:200"`; 1 runs no guide.
          weak_guidance: s2, the scale where a weaker mode guides; None ties it to s1 as the paper does.
          guidance_interval: (lowest, highest) time, 0..T, at which a guide runs (arXiv 2404.07724).
          guidance_channels: guide only the first few channels (3 for the released DiT's FID).
          solver: a module of `diffusion/solvers`: `"ddpm"`, `"ddim"`, `"dpmpp_2m"` or `"sa_solver"` for a
            Gaussian process, `"euler"` or `"heun"` (twice the evaluations) for flow matching; or its name
            and keywords, such as `{"name": "sa_solver", "tau": 0.5}`.
          seed: sample i of a seed has the same noise, to the bit, in any batch.
          weak: with three or more modes, the one a budget mixes in; the weakest by default.
          batch: samples per call of the network, over all devices; all at once by default.
          latency_ms: instead of a budget, milliseconds for all steps of one batch (decoding apart): the
            weak-first schedule predicted to take that long or less on this device, from evaluations that
            are timed on the first such call and kept (see `packing`).
          packing: how a step runs two predictions of two lengths, where a weaker mode guides: "separate",
            "padded", "joined" or "packed" (see `sampling.packing`); the same prediction to about 1e-6.
            "auto" takes the one measured fastest on this device at this batch size. The first such call
            compiles and times all four, says so, and keeps the times in `packing.json` under
            $FLEXIDIT_JAX_CACHE or ~/.cache/flexidit_jax. That pays for many samples at one batch size, not
            for a few, and it may change the last bits; hence "separate", the fewest FLOPs, by default.
          first: number of the first sample, to continue a seed's sequence.
          noise: x_T instead of drawn noise, [B, H, W, C] or [B, F, H, W, C].
          step_noise: noise of each executed step instead of drawn noise, [steps, *noise.shape].
          decode: False returns latents.
          progress: show a bar over steps, or what to call after each step of each batch.

        Returns:
          uint8 [B, H, W, channels] ([B, F, H, W, channels] for video), or float32 latents.

        Raises:
          UserError: labels, schedules, budgets, solvers or shapes that do not fit; rows shared by two modes
            of a model with adapters, whose kernels are not shared.
        """
        layouts = choices(packing, adapters=adapter_rank(self.params) is not None)
        cond = self.model.conditioner.parse(labels)
        table = make_table(solver, self.process, steps)
        if decode and self.codec is None:
            raise UserError("this model has no codec to decode its latents with; pass decode=False for latents")
        if decode:
            self.codec.check()
        if guidance_channels is not None and not 1 <= guidance_channels <= self.model.latent[-1]:
            raise UserError(f"guidance_channels must lie in 1..{self.model.latent[-1]}, got {guidance_channels}")
        if not 0 <= seed < 2**32:
            raise UserError(f"seed must lie in 0..2^32-1, got {seed!r}")
        if first < 0:
            raise UserError(f"first must be at least 0, got {first!r}")
        n = len(cond)
        batch = n if batch is None else batch
        if batch < 1:
            raise UserError(f"batch must be at least 1, got {batch}")
        batch = self._engine.even(min(batch, n))
        start = None if noise is None else self._as_video(noise)
        if start is not None and len(start) != n:
            raise UserError(f"noise is for {len(start)} samples, but there are {n} labels")
        if step_noise is not None:
            if start is None or np.shape(step_noise) != (steps, *np.shape(noise)):
                shape = np.shape(step_noise)
                raise UserError(
                    f"step_noise must have shape [steps={steps}, *noise.shape] and come with noise, got {shape}"
                )
            step_noise = jnp.asarray(step_noise).reshape(steps, n, *self.model.latent)
        words = (steps, schedule, guide, budget, guidance, weak_guidance, guidance_interval, weak, solver)
        chosen = self.plan(*words, latency_ms, batch, packing, guidance_channels)
        like = cond[np.minimum(np.arange(batch), n - 1)]
        runs = fastest(chosen.segments, layouts, times_of(self._engine, table, like, guidance_channels))
        done: list[np.ndarray] = []
        with Progress(steps * -(-n // batch), "sampling", enabled=progress is True) as bar:
            tick = progress if callable(progress) else bar.advance
            for begin in range(0, n, batch):
                if batch < n:
                    bar.note(f"batch {begin // batch + 1} of {-(-n // batch)}")
                here = np.minimum(np.arange(begin, begin + batch), n - 1)  # the last batch repeats its last sample
                chain = self._engine.denoise(
                    runs,
                    table,
                    x=starting_noise(seed, first + here, self.model.latent) if start is None else start[here],
                    cond=cond[here],
                    seed=seed,
                    indices=first + here,
                    captured=None if step_noise is None else step_noise[:, here],
                    guidance_channels=guidance_channels,
                )
                for latents in chain:  # noqa: B007 (the last one is x_0)
                    tick()
                x0 = self.codec.decode(latents) if decode else np.asarray(latents)
                done.append(x0[: n - begin])
        out = np.concatenate(done)
        if start is not None and not decode:
            return out.reshape(np.shape(noise))
        return out[:, 0] if self.model.latent[0] == 1 else out

    @property
    def sampling_bytes(self) -> int:
        """Bytes of weights held for sampling: every distinct array of every mode, once."""
        return self._engine.weight_bytes()

    def export(self, path: str | Path, patch: int | str | tuple[int, ...] | None = None) -> None:
        """Writes one mode as a DiT of a published layout, which other programs read.

        Args:
          path: `.safetensors` or `.pt` (with torch), or a folder for diffusers.
          patch: the mode; the most powerful by default.

        Raises:
          UserError: a mode the layout cannot hold, or a path that cannot be written.
        """
        mode = self.patches[0] if patch is None else as_patch(patch)
        model = self.model.at(mode)
        write_published(Path(path), model, write_dit(model, at(self.params, mode)))

    def save(self, path: str | Path, adapters_only: bool = False) -> None:
        """Writes `config.json` and `model.safetensors` into a folder that `load` reads.

        Args:
          path: the folder.
          adapters_only: leave the pre-trained weights out; `load` then wants them as `base=` and
            refuses any others by the fingerprint recorded here.

        Raises:
          UserError: the folder cannot be written, or there are no adapters to save by themselves.
        """
        config = {
            "model": describe(self.model),
            "process": _describe_part(self.process),
            "codec": None if self.codec is None else _describe_part(self.codec),
        }
        write_saved(Path(path), config, self.params, adapters_only)

    def _cost(self, patch: Patch) -> int:
        rank = lora.rank_of(self.params["modes"][patch_name(patch)]) or 0
        return forward_flops(self.model, patch, 0 if self.merge_adapters else rank)

    def _as_video(self, x: Array) -> Array:
        latent = self.model.latent
        shape = np.shape(x)
        if shape[1:] == latent or (latent[0] == 1 and shape[1:] == latent[1:]):
            return jnp.asarray(x).reshape(-1, *latent)
        wanted = latent[1:] if latent[0] == 1 else latent
        raise UserError(f"x must have shape [B, {', '.join(map(str, wanted))}], got {list(shape)}")


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
    path = Path(path)
    if not path.exists():
        raise UserError(f"{path} does not exist; give a run's folder, a saved model or a DiT weight file")
    if path.is_file():
        if path.suffix not in WEIGHT_SUFFIXES:
            raise UserError(f"{path} is not a weight file; known endings: {', '.join(WEIGHT_SUFFIXES)}")
        state, heads = read_state_dict(path)
        return _published(state, num_heads if num_heads is not None else heads)
    if is_diffusers_folder(path):
        return _published(*read_folder(path), vae=path / "vae")
    if (path / WEIGHTS).is_file():
        base = load(base, num_heads) if isinstance(base, (str, Path)) else base
        return assemble(*read_saved(path, None if base is None else base.params))
    from flexidit_jax.training.checkpoint import load_weights  # orbax, which sampling a saved model does not need

    return assemble(*load_weights(path))


def _published(state: dict[str, np.ndarray], num_heads: int | None, vae: Path | None = None) -> FlexiDiT:
    """A published DiT: latents of the SD-VAE, which a diffusers pipeline brings along."""
    model, params = read_dit(state, num_heads)
    process = build.part("flexidit_jax.diffusion", "Process", {"name": "gaussian"}, "process")
    where = {"path": str(vae)} if vae is not None and vae.is_dir() else {}
    codec = build.part("flexidit_jax.codecs", "Codec", {"name": "sd_vae", **where}, "codec")
    return FlexiDiT(model, flexify(params, [model.patch]), process, codec if model.latent[-1] == 4 else None)


def assemble(config: dict[str, Any], params: Params) -> FlexiDiT:
    """A model from the `model`, `process` and `codec` sections of a config and a stored tree."""
    model = build.call(build_dit, config["model"], "model")
    process = build.part("flexidit_jax.diffusion", "Process", config["process"], "process")
    codec = config["codec"] and build.part("flexidit_jax.codecs", "Codec", config["codec"], "codec")
    return FlexiDiT(model, params, process, codec)


def _describe_part(part: Any) -> dict[str, Any]:
    return {"name": type(part).__module__.rsplit(".", 1)[-1], **dataclasses.asdict(part)}


@partial(jax.jit, static_argnames=("model", "patch"))
def _predict(model: DiT, params: Params, patch: Patch, x: Array, t: Array, cond: Any) -> Prediction:
    return model.apply({"params": at(params, patch)}, x, t, cond)
