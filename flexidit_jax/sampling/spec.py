"""How to sample: everything a user says about it, in one value.

The command line, a config, Python and a record all make a `SampleSpec`; what its keys are, nobody else says. *What* is
sampled (conditions, the number of the first, noise) and *where* (batch, devices, files) are other arguments.
"""

from __future__ import annotations

import functools
import secrets
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.arguments import holds, shown, typed
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.common.types import Patch, as_patch, short_patch_name
from flexidit_jax.diffusion.process import NoiseProcess
from flexidit_jax.diffusion.solvers import make_table
from flexidit_jax.diffusion.steps import Steps
from flexidit_jax.sampling.guidance import weak_guide_scale
from flexidit_jax.sampling.packing import check_packing
from flexidit_jax.sampling.plan import Choose, Cost, Plan, within_budget
from flexidit_jax.sampling.schedule import (
    X_OVER_Y,
    GuideSchedule,
    Schedule,
    constant,
    parse,
    parse_guide,
    parse_numbers,
    powerful_last,
    segments,
    text_of,
    weak_first,
)
from flexidit_jax.sampling.sizes import check_size

#: what a spec means for a DiT where it leaves that to the model
OWN: Mapping[str, Any] = {"steps": 250, "solver": "ddpm", "guidance": 1.5}


def _names_the_nearest(cls: type) -> type:
    """Has a dataclass refuse a misspelt key as its methods do."""
    init = cls.__init__

    @functools.wraps(init)
    def told(self: Any, *args: Any, **words: Any) -> None:
        check_known(words, (), cls.__name__)
        init(self, *args, **words)

    cls.__init__ = told
    return cls


@_names_the_nearest
@dataclass(frozen=True)
class SampleSpec:
    """How to sample; hashable, and JSON in and out by `recorded` and `of_record`.

    A list becomes a tuple and a mapping sorted pairs. A new key has the default that does what was done before it.
    Whoever changes a default writes the one so far into `INTRODUCED`: a record without that key is older than the key.

    What is the model's own, 250 steps of a DiT and 20 of a PixArt, `meant` writes in where it is None.

    Attributes:
      steps: denoising steps; None: the model's own.
      budget: share of the FLOPs of running every step powerful with the same guidance, in (0, 1]; the weak-first
        schedule nearest at or below it is used.
      schedule: instead of a budget, `"4:120,2:130"`: patch:steps in the order executed; or the
        paper's `"x/y"`: the last x conditional and the last y guiding steps powerful.
      guide: schedule of the guide, None meaning the same; never more powerful than `schedule`. `none`
        stands for steps without a guide: `"none:50,4:200"`.
      guidance: s1 of FlexiDiT section 3.4, for all steps or by stretches: `"1:50,1.5:200"`; 1 runs no guide. None: the
        model's own, which may be more where fewer FLOPs are spent.
      weak_guidance: s2, the scale where a weaker mode guides; None ties it to s1 as the paper does.
      guidance_interval: (lowest, highest) time at which a guide runs (arXiv 2404.07724), as the network is told it:
        0..1000 from data to noise, of a SiT 0..1 from noise to data.
      guidance_channels: guide only the first few channels (3 for the released DiT's FID).
      solver: a module of `diffusion/solvers`: `"ddpm"`, `"ddim"`, `"dpmpp_2m"` or `"sa_solver"` for a
        Gaussian process, `"euler"` or `"heun"` (twice the evaluations) for flow matching and SiT; or its
        name and keywords, such as `{"name": "sa_solver", "tau": 0.5}`; None: the model's own.
      seed: sample i of a seed has the same noise, to the bit, in any batch. None draws one when the spec is made and
        says which: from then on the spec holds that number.
      weak: with three or more modes, the one that a budget or `"x/y"` mixes in; the weakest by default.
      latency_ms: instead of a budget, milliseconds for all steps of one batch (decoding apart): the
        weak-first schedule predicted to take that long or less on this device, from evaluations that
        are timed on the first such call and kept (see `packing`).
      packing: how a step runs two predictions of two lengths, where a weaker mode guides: "separate",
        "padded", "joined" or "packed" (see `sampling.packing`); the same prediction to about 1e-6.
        "auto" takes the one measured fastest on this device at this batch size. The first such call
        compiles and times all four, says so, and keeps the times in `packing.json` under
        $FLEXIDIT_JAX_CACHE or ~/.cache/flexidit_jax. That pays for many samples at one batch size, not
        for a few, and it may change the last bits; hence "separate", the fewest FLOPs, by default.
      size: (height, width) of pictures in pixels, drawn exactly; None: what the model was trained at.
      aspect: instead, width to height such as "3:2": the nearest bin of PixArt's (see `sampling.sizes`).
      frames: of clips, drawn exactly; None: as many as the model was trained at.

    Raises:
      UserError: what no model could do: types, ranges, keys that exclude each other.
    """

    steps: int | None = None
    budget: float | None = None
    schedule: str | None = None
    guide: str | None = None
    guidance: float | str | None = None
    weak_guidance: float | str | None = None
    guidance_interval: tuple[float, float] | None = None
    guidance_channels: int | None = None
    solver: str | Mapping[str, Any] | None = None
    seed: int | None = 0
    weak: int | str | tuple[int, ...] | None = None
    latency_ms: float | None = None
    packing: str = "separate"
    size: tuple[int, int] | None = None
    aspect: str | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        for field in fields(self):
            object.__setattr__(self, field.name, _hashable(getattr(self, field.name), field.name))
        _check_latency(self.latency_ms)
        _check_interval(self.guidance_interval)
        check_size(self.size, self.aspect, self.frames)
        for field in fields(self):
            object.__setattr__(self, field.name, typed(getattr(self, field.name), field.type, field.name))
        if not isinstance(self.solver_section, (str, dict, type(None))):
            raise UserError(f"solver must be a name, or a name and keywords, got {shown(self.solver)}")
        if self.schedule is not None and self.budget is not None:
            raise UserError(
                f"give a schedule or a budget, not both (schedule={self.schedule!r}, budget={self.budget!r})"
            )
        if self.latency_ms is not None and (self.schedule is not None or self.budget is not None):
            raise UserError(
                f"latency_ms goes without a schedule or a budget (schedule={self.schedule!r}, budget={self.budget!r})"
            )
        if self.budget is not None and not 0 < self.budget <= 1:
            raise UserError(f"budget must lie in (0, 1] (1 runs every step powerful), got {shown(self.budget)}")
        if self.seed is not None and not 0 <= self.seed < 2**32:
            raise UserError(f"seed must lie in 0..2^32-1, got {self.seed!r}")
        for field in fields(self):
            if not _finite(value := getattr(self, field.name)):
                raise UserError(f"{field.name} must be finite, got {shown(value)}")
        check_packing(self.packing)
        if self.weak is not None:
            as_patch(self.weak)
        if self.seed is None:
            object.__setattr__(self, "seed", drawn_seed())

    @property
    def solver_section(self) -> str | dict[str, Any] | None:
        """The solver as a config has it: a name, or a name and keywords."""
        paired = isinstance(self.solver, tuple) and all(isinstance(p, tuple) and len(p) == 2 for p in self.solver)
        return dict(self.solver) if paired else self.solver

    def meant(self, own: Mapping[str, Any], share: float | None = None) -> SampleSpec:
        """With a model's own words where it says None.

        Args:
          own: see `own_words`.
          share: of the FLOPs of running every step powerful with the same guidance; without one a scale that
            depends on it stays open.
        """
        words = {key: value for key, value in own.items() if getattr(self, key) is None}
        if isinstance(scales := words.get("guidance"), tuple):
            words["guidance"] = None if share is None else round(float(np.interp(share, *zip(*scales))), 3)
        return replace(self, **words) if words else self

    def table(self, process: NoiseProcess) -> Steps:
        """The solver's rows.

        Raises:
          UserError: see `diffusion.solvers.make_table`; or a guidance interval beyond the times of the process.
        """
        if self.guidance_interval and not 0 <= self.guidance_interval[0] <= self.guidance_interval[1] <= process.steps:
            raise UserError(
                f"guidance_interval={self.guidance_interval!r} must lie in 0..{process.steps}, the times of the"
                f" {build.describe(process)['name']} process"
            )
        return make_table(self.solver_section, process, self.steps)

    def plan(self, patches: Sequence[Patch], table: Steps, cost: Cost, choose: Choose | None = None) -> Plan:
        """What every step runs.

        Args:
          patches: the model's modes, powerful first.
          table: the solver's rows, see `table`.
          cost: FLOPs of one call in a mode.
          choose: picks from the weak-first plans where `latency_ms` asks for that; it is handed the maker: number
            of weak steps -> plan.

        Raises:
          UserError: modes that the model lacks, steps that do not add up, a budget that cannot be met, or a guide more
            powerful than what it guides.
        """
        steps = len(table.evaluations)
        weak = None if self.weak is None else as_patch(self.weak)
        if weak is not None and weak not in patches:
            known = ", ".join(map(short_patch_name, patches))
            raise UserError(f"weak={short_patch_name(weak)} is not a mode of this model; it has {known}")
        powerful, weakest = patches[0], weak or min(patches, key=cost)
        scales = self._scales(np.asarray(table.times))
        evaluations = tuple(map(int, table.evaluations))

        def whole(conditional: Schedule, guiding: GuideSchedule | None = None) -> Plan:
            if guiding is None:
                guiding = conditional if self.guide is None else parse_guide(self.guide, steps, patches)
            return Plan(segments(conditional, guiding, *scales), evaluations)

        def by_weak_steps(n: int) -> Plan:
            return whole(weak_first(weakest, powerful, n, steps))

        counts = X_OVER_Y.fullmatch(self.schedule or "")
        if counts:
            if self.guide is not None:
                raise UserError(f"schedule {self.schedule!r} speaks for the guide too; leave out guide={self.guide!r}")
            return whole(*powerful_last(weakest, powerful, int(counts[1]), int(counts[2]), steps))
        if self.schedule is not None:
            return whole(parse(self.schedule, steps, patches))
        if self.budget is not None:
            share = functools.partial(Plan.relative_cost, powerful=powerful, cost=cost)
            return within_budget(self.budget, steps, by_weak_steps, share, weakest)
        if self.latency_ms is not None and choose is not None:
            return choose(by_weak_steps)
        return whole(constant(powerful, steps))

    def settled(self, plan: Plan) -> SampleSpec:
        """The spec that leaves nothing to choose and runs `plan`, which was made from this one.

        Scales and their interval stay: they follow from which mode guides which, and that is the plan's. A
        budget in milliseconds is timed once this way, and not again by every call.
        """
        guide = plan.guide or ((None, len(plan.evaluations)),)
        return replace(self, schedule=text_of(plan.schedule), guide=text_of(guide), budget=None, latency_ms=None)

    def recorded(self) -> dict[str, Any]:
        """Every key with its value, JSON-ready."""
        record = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return record | {"solver": self.solver_section}

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> SampleSpec:
        """The inverse of `recorded`, also of what an earlier version recorded: see `INTRODUCED`.

        Raises:
          UserError: a key that there is not.
        """
        if not isinstance(record, Mapping):
            raise UserError(f"a record is a mapping as `recorded` makes it, got {type(record).__name__}")
        return build.call(cls, {**INTRODUCED, **record}, "sample")

    def _scales(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """s1 and s2 of every step, [steps] each; 1 where nothing guides."""
        steps = len(times)
        guidance = parse_numbers(self.guidance, steps, "guidance")
        weak = weak_guide_scale(guidance)
        if self.weak_guidance is not None:
            weak = parse_numbers(self.weak_guidance, steps, "weak_guidance")
        if self.guidance_interval is None:
            return guidance, weak
        lowest, highest = self.guidance_interval
        inside = (lowest <= times) & (times <= highest)
        return np.where(inside, guidance, 1.0), np.where(inside, weak, 1.0)


#: what a key that a record leaves out means: its value when it was introduced, where that is no longer the default
INTRODUCED: dict[str, Any] = {"steps": 250, "solver": "ddpm", "guidance": 1.5}


def own_words(conditioner: Any) -> dict[str, Any]:
    """What a model of a kind of condition is sampled with where nobody says: steps, solver and guidance.

    Guidance is a scale, or pairs of a share of FLOPs and the scale there, ascending, linear between.
    """
    return {**OWN, **getattr(conditioner, "sampled", {})}


def drawn_seed() -> int:
    """A seed nobody chose; says which, on standard error."""
    seed = secrets.randbelow(2**31)
    if cluster.first():
        print(f"seed: drew {seed}; seed={seed} makes the same samples again", file=sys.stderr, flush=True)
    return seed


def check_known(words: Iterable[str], also: Iterable[str], where: str) -> None:
    """Refuses a word that is no key of a spec, nor one of `also`, which `where` takes beside.

    Raises:
      UserError: naming the nearest of all.
    """
    known = {field.name for field in fields(SampleSpec)}
    for word in words:
        if word not in known:
            raise UserError(f"{where} takes no {word!r}{nearest(word, known | set(also))}")


def _hashable(value: Any, key: str) -> Any:
    """Mappings as sorted pairs, lists and arrays as tuples, numbers of numpy and jax as numbers.

    Raises:
      UserError: of key `key`, what is none of these.
    """
    if isinstance(value, Mapping):
        return tuple((str(name), _hashable(value[name], key)) for name in sorted(value, key=str))
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_hashable(item, key) for item in value)
    if value is None or isinstance(value, (int, float, str)):
        return value
    raise UserError(f"{key} must be made of numbers and words, got {type(value).__name__}")


def _finite(value: Any) -> bool:
    """Whether all numbers in a value are."""
    if isinstance(value, tuple):
        return all(map(_finite, value))
    try:
        return not isinstance(value, (int, float)) or holds(value)
    except OverflowError:  # an integer that no float holds
        return False


def _check_latency(latency_ms: Any) -> None:
    number = isinstance(latency_ms, (int, float)) and not isinstance(latency_ms, bool)
    if latency_ms is not None and not (number and latency_ms > 0):
        raise UserError(f"latency_ms must be a positive number of milliseconds, got {shown(latency_ms)}")


def _check_interval(interval: Any) -> None:
    numbers = isinstance(interval, tuple) and all(isinstance(end, (int, float)) for end in interval)
    if interval is not None and not (numbers and len(interval) == 2 and interval[0] <= interval[1]):
        raise UserError(f"guidance_interval must be (lowest, highest) of the times guided, got {shown(interval)}")
