"""Scores of images that are there already: no model, and nothing of how they were made but what lies beside them.

Features are taken once and kept by what they depend on, so that other metrics, and other sets of samples against the
same reference, run no network again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from flexidit_jax.common import build
from flexidit_jax.common.array_files import ArrayFile
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.image_set import ImageSet
from flexidit_jax.evaluation.extraction import PACKAGE, Extractor, check_extractor
from flexidit_jax.evaluation.reference import Reference, check_made
from flexidit_jax.evaluation.samples import ARRAYS, Samples, are_paired
from flexidit_jax.evaluation.studies.scores_protocol import protocol_of, remarks_on
from flexidit_jax.metrics.estimate import difference
from flexidit_jax.metrics.moments import Gaussian
from flexidit_jax.metrics.protocol import Preset, preset
from flexidit_jax.metrics.score import Images, metric_of
from flexidit_jax.metrics.statistics_file import has_statistics, read_statistics


@dataclass(frozen=True)
class Scores:
    """The `evaluate` section where there is no model.

    Attributes:
      samples: where images are, a folder or a `.npz` file; several, as a list or with commas, are compared. Also
        `--samples`.
      reference: a file of statistics, or images, that samples are compared with; also `--reference`.
      features: name (a module of `metrics/features`) and keywords of the extractor, such as `path`, where its weights
        are; a list of such sections takes several.
      metrics: names (modules of `metrics`, or their numbers), or sections of name and keywords; by default those of the
        protocol, else what is usually measured on such features.
      protocol: a published one that is held against, such as "adm-imagenet256"; what deviates from it is said.
      crop: what is cut out of pictures, "adm" or "square"; by default that of the protocol.
      side: of the crop.
      prompts: a text file, the caption of an image a line, in the order of the samples.
      paired: whether image i of all samples had the same noise and label; None: as their manifests say.
      batch: images that a network sees at once, over all devices.
      out: the folder that is written, `<workdir>/evaluation` by default; also `--out`.
    """

    samples: str | Sequence[str] | None = None
    reference: str | None = None
    features: Mapping[str, Any] | Sequence[Mapping[str, Any]] = field(default_factory=lambda: {"name": "inception"})
    metrics: str | Sequence[Any] | None = None
    protocol: str | None = None
    crop: str | None = None
    side: int | None = None
    prompts: str | None = None
    paired: bool | None = None
    batch: int = 32
    out: str | None = None

    def __post_init__(self) -> None:
        build.positive("evaluate", batch=self.batch, **({} if self.side is None else {"side": self.side}))
        if self.reference is not None and not (isinstance(self.reference, str) and self.reference.strip()):
            raise UserError(
                f"--reference names statistics or images, a file or a folder of them; got {self.reference!r}"
            )
        for section in self.sections:
            check_extractor(section, "evaluate.features")
            self.metrics_of(section["name"])

    @property
    def names(self) -> list[str]:
        """Of the samples.

        Raises:
          UserError: there are none, or one is named twice.
        """
        asked = self.samples
        if isinstance(asked, str) and not Path(asked).expanduser().exists():
            asked = [name.strip() for name in asked.split(",")]
        asked = [asked] if isinstance(asked, str) else asked
        if not isinstance(asked, Sequence) or not asked or not all(isinstance(name, str) and name for name in asked):
            found = "none" if self.samples is None else repr(self.samples)
            raise UserError(f"--samples names images, a folder of PNG files or a .npz file; got {found}")
        if twice := [name for name in asked if asked.count(name) > 1]:
            raise UserError(f"--samples names {twice[0]} twice; sets that are compared are different ones")
        for first, then in combinations(asked, 2):
            if _place(first) == _place(then):
                said = f"{first} and {then}, which are the same"
                raise UserError(f"--samples names {said}; sets that are compared are different ones")
        return list(asked)

    @property
    def preset(self) -> Preset | None:
        """The protocol that is held against."""
        return None if self.protocol is None else preset(self.protocol)

    @property
    def sections(self) -> list[dict[str, Any]]:
        """Of the extractors: those that are asked for, and what the protocol wants beside them.

        Raises:
          UserError: they are no sections.
        """
        asked = [self.features] if isinstance(self.features, Mapping) else self.features
        if not isinstance(asked, Sequence) or not asked or not all(isinstance(one, Mapping) for one in asked):
            raise UserError(f"evaluate.features must be a section or a list of sections, got {self.features!r}")
        names = [one.get("name") for one in asked]
        if twice := [name for name in names if names.count(name) > 1]:
            raise UserError(f"evaluate.features names {twice[0]} twice; each takes a run of its own")
        more = self.preset.features if self.preset and self.metrics is None else ()
        return [dict(one) for one in asked] + [{"name": name} for name in more if name not in names]

    def metrics_of(self, extractor: str) -> list[Any]:
        """What is measured on the features of an extractor.

        Raises:
          UserError: there are none; no such metric, one in two ways, or one that reads what there is not.
        """
        maker = build.find(PACKAGE, extractor, "Features")
        asked = self.metrics
        if asked is None:
            wanted = self.preset and self.preset.features.get(extractor)
            asked = wanted.metrics if wanted else maker.metrics
        asked = asked.split(",") if isinstance(asked, str) else asked
        if not isinstance(asked, Sequence) or not asked:
            raise UserError(f"evaluate.metrics must be names or sections, and at least one, got {asked!r}")
        named = [one if isinstance(one, Mapping) else {"name": str(one).strip()} for one in asked]
        found = list(dict.fromkeys(metric_of(one, "evaluate.metrics") for one in named))
        kinds = [type(metric) for metric in found]
        if twice := [one.numbers[0] for one in found if kinds.count(type(one)) > 1]:
            raise UserError(f"evaluate.metrics asks for {twice[0]} in two ways; each takes a run of its own")
        for metric, kind in [(one, kind) for one in found for kind in one.reads]:
            if kind not in _kinds(extractor):
                have = " and ".join(name for name in build.names(PACKAGE, "Features") if kind in _kinds(name))
                raise UserError(f"{metric.numbers[0]} reads {kind}, which {have} has, and {extractor} has not")
            if kind == "prompts" and self.prompts is None:
                raise UserError(f"{metric.numbers[0]} reads captions; set evaluate.prompts to a file of one a line")
        return found

    @property
    def cut(self) -> dict[str, Any]:
        """Keywords of `data.image_set.open_images`."""
        if self.crop is None and self.side is None and self.preset and self.preset.crop:
            return dict(zip(("crop", "side"), self.preset.crop, strict=True))
        return {"crop": self.crop, "side": self.side}


@dataclass(frozen=True)
class Opened:
    """All that a `Scores` names, looked at, with nothing computed yet; see `opened`.

    Attributes:
      preset: the name of the protocol.
      prompts: of every image.
      captions: SHA-256 of the file of them.
      paired: whether sets of samples are.
      extractors: with their metrics.
    """

    preset: str | None
    samples: Sequence[Samples]
    reference: Reference | None
    prompts: Sequence[str] | None
    captions: str | None
    paired: bool
    extractors: Sequence[tuple[Extractor, Sequence[Any]]]


def opened(section: Scores) -> Opened:
    """Looks at everything, and refuses here what can be refused before a network runs.

    Raises:
      UserError: so it is.
    """
    samples = [Samples.open(name, **section.cut) for name in section.names]
    paired = are_paired(section.paired, samples)
    prompts, captions = (None, None) if section.prompts is None else _captions(section.prompts, samples)
    metrics = {one["name"]: section.metrics_of(one["name"]) for one in section.sections}
    reference = None if section.reference is None else Reference.open(section.reference, **section.cut)
    for metric in (metric for own in metrics.values() for metric in own):
        if _compares([metric]) and reference is None:
            cure = "--reference=FILE.npz, of statistics or of images, or a folder of images would do"
            raise UserError(f"{metric.numbers[0]} compares with a reference; {cure}")
        for one in samples:
            metric.check(one.images.count, reference.count if _compares([metric]) else None)
            if hasattr(metric, "check_labels"):
                metric.check_labels(one.images.labels)
    extractors = [
        (Extractor.of(one, section.batch, "evaluate.features"), metrics[one["name"]]) for one in section.sections
    ]
    for extractor, own in extractors:
        if _compares(own):
            reference.check(own, extractor.name, extractor.protocol)
        for path in (one.images.path for one in samples if _counts_own(one.images)):
            check_made(path, "statistics", ArrayFile(path).words(), extractor.name, extractor.protocol)
    return Opened(section.protocol, samples, reference, prompts, captions, paired, extractors)


def measure(asked: Opened, folder: Path) -> dict[str, Any]:
    """The scores, JSON-ready: `rows`, one an extractor and set of samples, and `differences` of two sets.

    Args:
      folder: where features are kept.

    Raises:
      UserError: an image that is damaged, features that are not finite, or what a metric refuses.
    """
    rows, differences = [], []
    for extractor, metrics in asked.extractors:
        widths = extractor.widths_in(folder, asked.samples[0].images)
        reference = Images()
        if compared := _compares(metrics):
            features = any(metric.compares for metric in metrics)
            reference = extractor.reference(asked.reference, folder, features, widths)
        more = {}
        if any("prompts" in metric.reads for metric in metrics):
            more["prompts"] = extractor.prompts_in(folder, asked.prompts)
        scored = []
        for number, one in enumerate(asked.samples):
            before = asked.samples[:number]
            fitted = _own_statistics(one.images, extractor.name, widths)
            images = Images({**extractor.kept_in(folder, one.images), **more}, fitted, one.images.labels)
            scores = [score for metric in metrics for score in metric.scores(images, reference, extractor.name)]
            scored.append((one.name, {score.metric: score for score in scores}))
            against = asked.reference if compared else None
            protocol = replace(
                protocol_of(one, extractor, metrics, asked.captions, against, reference.fitted), preset=asked.preset
            )
            rows.append(
                {
                    "samples": one.name,
                    "features": extractor.name,
                    "scores": {score.metric: score.record() for score in scores},
                    "protocol": protocol.record(),
                    "remarks": remarks_on(one, before, against, images),
                }
            )
        for (other, theirs), (name, ours) in combinations(scored, 2):
            for metric, score in ours.items():
                if score.estimate is None or theirs[metric].estimate is None:
                    continue
                found = difference(score.estimate, theirs[metric].estimate, asked.paired)
                said = {"samples": name, "less": other, "features": extractor.name, "metric": metric}
                differences.append(said | {"value": found.value, "error": found.error, "paired": found.paired})
    return {"rows": rows, "differences": differences}


def _own_statistics(images: ImageSet, name: str, widths: Mapping[str, int]) -> Mapping[str, Gaussian]:
    return read_statistics(images.path, name, widths).gaussians if _counts_own(images) else {}


def _counts_own(images: ImageSet) -> bool:
    """Where the file of samples holds statistics, they count, as ADM's evaluator has it."""
    return images.path.suffix == ".npz" and has_statistics(images.path)


def _place(name: str) -> Path:
    """Where the images of that name lie, whatever else leads there."""
    path = Path(name).expanduser()
    return (path / ARRAYS if (path / ARRAYS).is_file() else path).resolve()


def _captions(path: str, samples: Sequence[Samples]) -> tuple[list[str], str]:
    """A line an image, and the SHA-256 of the file."""
    try:
        content = Path(path).expanduser().read_bytes()
        lines = [line.removesuffix("\r") for line in content.decode("utf-8-sig").removesuffix("\n").split("\n")]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the captions of {path} ({getattr(error, 'strerror', None) or error})") from None
    for one in samples:
        if (count := one.images.count) != len(lines):
            raise UserError(f"{path} has {len(lines):,} captions, one a line, and {one.name} has {count:,} images")
    return lines, hashlib.sha256(content).hexdigest()


def _compares(metrics: Sequence[Any]) -> bool:
    """Whether any of them wants a reference."""
    return any(metric.compares or getattr(metric, "fits", ()) for metric in metrics)


def _kinds(extractor: str) -> set[str]:
    maker = build.find(PACKAGE, extractor, "Features")
    return {*getattr(maker, "kinds", ()), *(["prompts"] if hasattr(maker, "text") else ())}
