"""A run is a list of stages: which modes to train, how long, how fast."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import optax

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Patch, as_patch, short_patch_name
from flexidit_jax.models.flexify import check_patches, sort_patches


@dataclass(frozen=True)
class Stage:
    """One stretch of training. Parameters and EMA pass through `flexify` into it; the optimizer is new.

    Attributes:
      patches: the modes trained, one of them a step.
      steps: optimizer steps.
      learning_rate: the peak, which the warm-up ends in.
      warmup: steps of linear warm-up.
      final_rate: share of the peak left at the end of a cosine decay; 1 keeps it constant.
      probabilities: share of steps per mode, powerful first; uniform by default, over the modes that
        have something to train.
      adapters: None trains all weights; a LoRA rank freezes the pre-trained ones (section 3.2).
      loss: what is minimised.
      times: shares of the way from data (0) to noise (1) between which a mode's t is drawn, such as
        {(1, 4, 4): (0.4, 1.0)}: a mode that a schedule uses on noisy steps alone need not learn the others. Modes
        not named train at all times.
    """

    patches: tuple[Patch, ...]
    steps: int
    learning_rate: float = 1e-4
    warmup: int = 0
    final_rate: float = 1.0
    probabilities: tuple[float, ...] | None = None
    adapters: int | None = None
    loss: Any = None
    times: Mapping[Patch, tuple[float, float]] = field(default_factory=dict)

    def rate(self) -> optax.Schedule:
        """Learning rate over the steps of this stage."""
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if self.warmup else self.learning_rate,
            peak_value=self.learning_rate,
            warmup_steps=self.warmup,
            decay_steps=self.steps,
            end_value=self.learning_rate * self.final_rate,
        )

    def goes_on(self, before: Stage) -> bool:
        """Whether it trains the very leaves that the stage before it did."""
        return (self.patches, self.adapters) == (before.patches, before.adapters)

    def mode(self, seed: int, step: int) -> Patch:
        """The patch size of a step, drawn from (seed, step): every host agrees and a resume replays it."""
        drawn = np.random.default_rng((seed, step)).choice(len(self.patches), p=self.probabilities)
        return self.patches[int(drawn)]


def build_stages(sections: Sequence[Mapping[str, Any]], base: Patch, loss: Mapping[str, Any]) -> list[Stage]:
    """Stages from a config's `train.stages`.

    Args:
      sections: keywords of one stage each.
      base: p0, the pre-trained patch.
      loss: of stages that name none.

    Raises:
      UserError: no stage, or a key or value that will not do.
    """
    listed = isinstance(sections, Sequence) and all(isinstance(section, Mapping) for section in sections)
    if isinstance(sections, str) or not listed:
        raise UserError(f"train.stages must be a list of sections, got {sections!r}")
    stages = [
        build.call(
            partial(_stage, base, f"train.stages[{i}].loss" if "loss" in section else "train.loss"),
            {"loss": loss, **section},
            f"train.stages[{i}]",
        )
        for i, section in enumerate(sections)
    ]
    if not stages:
        raise UserError("train.stages is empty; give at least one stage with patches and steps")
    for before, after in pairwise(stages):
        if len(before.patches) == 1 and before.patches != (base,) and before.patches != after.patches:
            raise UserError(
                "train.stages: a stage of one mode that others follow must train the pre-trained patch"
                f" {short_patch_name(base)}, got {short_patch_name(before.patches[0])}"
            )
        if len(before.patches) > 1 and not after.goes_on(before):
            raise UserError(
                "train.stages may change their patches or adapters once, from one pre-trained mode; a stage of"
                f" {len(before.patches)} modes is followed by one of others"
            )
    return stages


def _stage(
    base: Patch,
    where: str,
    patches: Sequence[int | str | Sequence[int]],
    steps: int,
    loss: Mapping[str, Any],
    learning_rate: float = 1e-4,
    warmup: int = 0,
    final_rate: float = 1.0,
    probabilities: Sequence[float] | None = None,
    adapters: int | None = None,
    times: Mapping[str, Sequence[float]] | None = None,
) -> Stage:
    modes = sort_patches(as_patch(patch) for patch in patches)
    build.positive("train.stages", steps=steps, learning_rate=learning_rate)
    if not modes:
        raise UserError("train.stages.patches is empty; give at least the pre-trained patch")
    check_patches(modes, base)
    if not 0 <= warmup < steps:
        raise UserError(f"train.stages.warmup must lie in 0..steps-1={steps - 1}, got {warmup}")
    if adapters is not None and base not in modes:
        raise UserError(f"train.stages.patches of a stage with adapters must hold the pre-trained patch, got {patches}")
    idle = [adapters is not None and patch == base for patch in modes]
    if all(idle):
        raise UserError("train.stages.adapters adapts new modes, but train.stages.patches has the pre-trained one only")
    if probabilities is None and any(idle):
        probabilities = [0.0 if no else 1 / (len(modes) - 1) for no in idle]
    if adapters is not None:
        build.positive("train.stages", adapters=adapters)
    if probabilities is not None:
        if len(probabilities) != len(modes) or min(probabilities) < 0 or abs(sum(probabilities) - 1) > 1e-6:
            raise UserError(
                f"train.stages.probabilities must be {len(modes)} numbers that add up to 1, got {tuple(probabilities)}"
            )
        if any(no and share for no, share in zip(idle, probabilities)):
            raise UserError("train.stages.probabilities trains the pre-trained mode, which adapters leave frozen")
        probabilities = tuple(probabilities)
    maker = build.part("flexidit_jax.training.losses", "Loss", loss, where)
    return Stage(
        modes, steps, learning_rate, warmup, final_rate, probabilities, adapters, maker, _times(times or {}, modes)
    )


def _times(section: Mapping[str, Sequence[float]], modes: Sequence[Patch]) -> dict[Patch, tuple[float, float]]:
    """`{"4": (0.4, 1.0)}` by patch size."""
    times = {}
    for word, interval in section.items():
        patch = as_patch(word)
        if patch not in modes:
            known = ", ".join(map(short_patch_name, modes))
            raise UserError(f"train.stages.times names patch {short_patch_name(patch)}; the stage trains {known}")
        numbers = isinstance(interval, Sequence) and all(isinstance(end, (int, float)) for end in interval)
        if not numbers or len(interval) != 2 or not 0 <= interval[0] < interval[1] <= 1:
            raise UserError(
                f"train.stages.times of patch {short_patch_name(patch)} must be (lowest, highest), shares of the way"
                f" from data (0) to noise (1), got {interval!r}"
            )
        times[patch] = (float(interval[0]), float(interval[1]))
    return times
