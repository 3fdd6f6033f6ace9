"""Sections of a config that have no reader of their own but a job."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from flexidit_jax.common import build
from flexidit_jax.common.build import Section
from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.data.record_images import PARTS
from flexidit_jax.evaluation.extraction import check_extractor
from flexidit_jax.evaluation.judge_folder import judges
from flexidit_jax.evaluation.requests import check_kind
from flexidit_jax.runs.pictures import Files
from flexidit_jax.sampling.spec import INTRODUCED, SampleSpec

DTYPES = ("float16", "float32")
#: how generated images lie, beside the folders that judges of others read
IMAGE_FILES = ("npz", "png")
#: keys of the `sample` section that say how, as paths
HOW = tuple(f"sample.{field.name}" for field in fields(SampleSpec))


@dataclass(frozen=True)
class Sampling:
    """The `sample` section: what is sampled, where, and how.

    Attributes:
      spec: how; its keys stand in the section like the others.
      labels, prompts, images_per_prompt, batch, files, preview_every, out: see `build_sampling`.
      others: the other arguments of `FlexiDiT.sample`: negative, first, noise, step_noise, decode, progress.
    """

    spec: SampleSpec
    labels: Any
    prompts: Any
    images_per_prompt: int
    batch: int | None
    files: Files
    preview_every: int | None
    out: str | None
    others: Mapping[str, Any]

    def recorded(self) -> dict[str, Any]:
        """Every key that samples depend on with its value, JSON-ready; `of_record` reads it."""
        others = {key: _listed(value) for key, value in self.others.items() if key != "progress"}
        asked = {"labels": _listed(self.labels), "prompts": _listed(self.prompts)}
        counts = {"images_per_prompt": self.images_per_prompt, "batch": self.batch}
        return {**asked, **counts, **others, **self.spec.recorded()}

    @classmethod
    def of_record(cls, record: Section) -> Sampling:
        """The inverse of `recorded`, also of what an earlier version recorded, such as a `sample.json`.

        Raises:
          UserError: a key that there is not.
        """
        return build_sampling({**INTRODUCED, **record})


def _listed(value: Any) -> Any:
    """Tuples and ranges as JSON has them, also within mappings."""
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    return [_listed(item) for item in value] if isinstance(value, (tuple, list, range)) else value


def build_sampling(section: Section) -> Sampling:
    """The `sample` section from its keys.

    Raises:
      UserError: an unknown key (the nearest of all is named), or a value that no model could sample with.
    """

    def own(
        labels: Any = None,
        prompts: Any = None,
        images_per_prompt: int = 1,
        batch: int | None = None,
        files: Section | None = None,
        preview_every: int | None = None,
        out: str | None = None,
        negative: Any = None,
        first: int = 0,
        noise: Any = None,
        step_noise: Any = None,
        decode: bool = True,
        progress: bool = True,
    ) -> dict[str, Any]:
        """The keys that no spec has.

        Args:
          labels: of the samples, one each: numbers, ranges such as 0-3, names where the model knows them.
          prompts: of a model of texts, in place of labels: a file with a prompt a line (or as `text.prompt_files`
            has them), one prompt, a list of them, or a folder of features that `--mode=encode` wrote; also `--prompts`.
          images_per_prompt: pictures of each label or prompt, one after the other.
          batch: samples per call of the network.
          files: what is written.
          preview_every: steps between pictures of the estimate so far; None draws none.
          out: the folder; by default one of `<workdir>/samples` named after all words; also `--out`.
          negative: what guidance leads away from instead of from no condition.
          first: number of the first sample, which its noise depends on.
          noise, step_noise: given instead of drawn.
          decode: False writes latents.
          progress: whether a bar is shown.
        """
        build.positive("sample", images_per_prompt=images_per_prompt)
        counts = {"batch": batch, "preview_every": preview_every}
        build.positive("sample", **{key: value for key, value in counts.items() if value is not None})
        others = {"negative": negative, "first": first, "noise": noise, "step_noise": step_noise}
        return {
            "labels": labels,
            "prompts": prompts,
            "images_per_prompt": images_per_prompt,
            **counts,
            "out": out,
            "files": build.call(Files, files or {}, "sample.files"),
            "others": {**others, "decode": decode, "progress": progress},
        }

    of_spec, rest = build.split(section, "sample", SampleSpec, own)
    if (seed := of_spec.get("seed")) is not None and not 0 <= seed < 2**31:
        raise UserError(f"sample.seed must lie in 0..2^31-1, got {seed!r}")
    return Sampling(spec=SampleSpec(**of_spec), **own(**rest))


@dataclass(frozen=True)
class Evaluation:
    """The `evaluate` section.

    Attributes:
      features: their name (a module of `metrics/features`) and keywords.
      samples: drawn for a score.
      out: the folder of `evaluation.json`, the workdir by default; also `--out`.
    """

    features: Section
    samples: int
    out: str | None = None

    def __post_init__(self) -> None:
        build.positive("evaluate", samples=self.samples)


@dataclass(frozen=True)
class Generation:
    """The `generate` section; everything else an image depends on is `sample`.

    Attributes:
      num: images; None: 50,000 of classes, of prompts as many as are asked for; also `--num`.
      out: their folder, `<workdir>/generated` by default; also `--out`.
      labels: of classes, "uniform" or "balanced" (see `evaluation.requests`); prompts are taken in their order.
      shard: images a file, and what a kill may cost; a batch by default.
      files: "npz", one array of all; "png", a picture each with what was asked for in it; or the name of a judge whose
        tools read the folder, a module of `evaluation/judges`.
    """

    num: int | None = None
    out: str | None = None
    labels: str = "uniform"
    shard: int | None = None
    files: str = "npz"

    def __post_init__(self) -> None:
        counts = {"num": self.num, "shard": self.shard}
        build.positive("generate", **{key: value for key, value in counts.items() if value is not None})
        check_kind(self.labels)
        if self.files not in (known := (*IMAGE_FILES, *judges())):
            raise UserError(f"no generate.files {self.files!r}{nearest(self.files, known)}")


@dataclass(frozen=True)
class Compilation:
    """The `compile` section.

    Attributes:
      topology: a TPU slice such as `v5e:16x16`, a GPU such as `gpu:h100` or a machine of them, `gpu:h100x8`; None
        for the devices at hand. Also `--topology`.
      programs: of "train" and "sample".
      largest_batch: also find the largest batch that fits (up to 65,536), which compiles every program a few times
        more; None: for GPUs that are not there, whose compiler takes seconds.
      out: the folder, `<workdir>/compile` by default; also `--out`.
    """

    topology: str | None = None
    programs: Sequence[str] = ("train", "sample")
    largest_batch: bool | None = None
    out: str | None = None

    def __post_init__(self) -> None:
        known = ("train", "sample")
        if isinstance(self.programs, str) or not self.programs or not all(name in known for name in self.programs):
            raise UserError(f"compile.programs must be a list of {', '.join(known)}, got {self.programs!r}")


@dataclass(frozen=True)
class Encoding:
    """The `encode` section.

    Attributes:
      out: the folder; by default the `path` of a `latents` dataset, else `<workdir>/latents`, of prompts
        `<workdir>/texts`; also `--out`.
      dtype: of what is kept, "float16" (relative error 2^-11, half the bytes) or "float32".
      flipped: whether the mirrored images too, of those that are trained on; None: where the dataset augments.
      held_out: whether the held-out images too; scores and reports read them.
      shard: images or texts a file, and what a kill may cost.
      batch: images at once, over all devices of a process; of several processes each takes as many.
    """

    out: str | None = None
    dtype: str = "float16"
    flipped: bool | None = None
    held_out: bool = False
    shard: int = 1024
    batch: int = 128

    def __post_init__(self) -> None:
        build.positive("encode", shard=self.shard, batch=self.batch)
        if self.dtype not in DTYPES:
            raise UserError(f"encode.dtype must be {' or '.join(map(repr, DTYPES))}, got {self.dtype!r}")


@dataclass(frozen=True)
class Decoding:
    """The `decode` section.

    Attributes:
      latents: a folder of samples of clips, or its `latents.safetensors`; also `--latents`.
      out: the folder, that of the latents by default; also `--out`.
    """

    latents: str | None = None
    out: str | None = None


@dataclass(frozen=True)
class Referencing:
    """The `reference` section.

    Attributes:
      images: where the images are, a folder or a `.npz` file; None takes those of the dataset.
      crop: what is cut out of pictures of a folder, "adm" or "square"; a dataset has its own crop.
      side: of the crop.
      part: of the dataset, "train" or "held_out".
      features: name (a module of `metrics/features`) and keywords of the extractor, such as `path`, where its weights
        are.
      keep: images that are kept beside the statistics, drawn without replacement, for metrics that compare images; 0
        keeps none.
      seed: of that draw.
      batch: images that the network sees at once, over all devices.
      out: the file, `<workdir>/reference.npz` by default; also `--out`.
    """

    images: str | None = None
    crop: str | None = None
    side: int | None = None
    part: str = "train"
    features: Section = field(default_factory=lambda: {"name": "inception"})
    keep: int = 10_000
    seed: int = 0
    batch: int = 32
    out: str | None = None

    def __post_init__(self) -> None:
        build.positive("reference", batch=self.batch)
        if self.keep < 0 or self.seed < 0:
            raise UserError(f"reference.keep and reference.seed are 0 or more, got {self.keep} and {self.seed}")
        if self.part not in PARTS:
            raise UserError(f"no reference.part {self.part!r}{nearest(self.part, PARTS)}")
        check_extractor(self.features, "reference.features")
