"""How a number was measured, in one value: printed beside it, compared with that of another, and with a published one.

Two numbers say something of two models where their protocols are equal; `differences` names what is not. How samples
were drawn (`Drawn`) is apart: that is what a comparison is usually about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.metrics.score import Score


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """How the samples were made; None where nobody says, as of a folder of images.

    Attributes:
      weights: hash of the model's.
      seed: of noise and labels.
      solver, steps, guidance, guidance_channels: see `sampling.spec.SampleSpec`.
      schedule: and the guide's.
      codec: hash of the VAE's weights.
      dtype: of the network's arithmetic.
    """

    weights: str | None = None
    seed: int | None = None
    solver: str | None = None
    steps: int | None = None
    schedule: str | None = None
    guidance: float | str | None = None
    guidance_channels: int | None = None
    codec: str | None = None
    dtype: str | None = None

    @classmethod
    def of_manifest(cls, words: Mapping[str, Any]) -> Drawn:
        """As the `manifest.json` that `--mode=generate` leaves beside its images says."""
        sample, codec, model = (words.get(part) or {} for part in ("sample", "codec", "model"))
        solver = sample.get("solver")
        if isinstance(solver, Mapping):
            more = [f"{key}={value}" for key, value in solver.items() if key != "name"]
            solver = " ".join([str(solver.get("name")), *more])
        return cls(
            weights=words.get("weights"),
            seed=sample.get("seed"),
            solver=solver,
            steps=sample.get("steps"),
            schedule=words.get("plan"),
            guidance=sample.get("guidance"),
            guidance_channels=sample.get("guidance_channels"),
            codec=codec.get("weights"),
            dtype=model.get("dtype"),
        )


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How numbers were measured; None where that is not known, and of a preset where it asks for nothing.

    Attributes:
      features: the extractor.
      convention: how images become what it reads, such as "adm", "pytorch-fid", "clean", "dinov2-hub".
      weights: SHA-256 of the file of its weights.
      samples: how many.
      size: pixels of a side of a sample.
      crop: what was done to samples and reference before features were taken.
      lossless: whether the samples were never a JPEG.
      uint8: how the samples became bytes.
      labels: which classes were asked for: "uniform" (drawn), "balanced" (equally often), or captions.
      captions: SHA-256 of the file of captions.
      reference: its name.
      reference_sha256: of its file.
      reference_images: how many its statistics are of; None where its file does not say.
      preset: the protocol that was asked for, if any.
      drawn: how the samples were made.
      versions: of what computed it, by name; they make no difference of protocol.
    """

    features: str | None = None
    convention: str | None = None
    weights: str | None = None
    samples: int | None = None
    size: int | None = None
    crop: str | None = None
    lossless: bool | None = None
    uint8: str | None = None
    labels: str | None = None
    captions: str | None = None
    reference: str | None = None
    reference_sha256: str | None = None
    reference_images: int | None = None
    preset: str | None = None
    drawn: Drawn = Drawn()
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """JSON-ready; `of_record` reads it."""
        return dataclasses.asdict(self)

    @classmethod
    def of_record(cls, record: Mapping[str, Any]) -> Protocol:
        """The protocol that was recorded; what is left out is not known."""
        names = {field.name for field in dataclasses.fields(cls)}
        said = {key: value for key, value in record.items() if key in names}
        drawn = {key: value for key, value in said.pop("drawn", {}).items() if key in Drawn.__dataclass_fields__}
        return cls(**said, drawn=Drawn(**drawn))

    def __str__(self) -> str:
        """One line a subject, what is not known left out."""
        subjects = {
            "features": [self.features, self.convention and f"convention {self.convention}", _hash(self.weights)],
            "samples": [
                _count(self.samples, "images"),
                self.size and f"{self.size}x{self.size}",
                self.crop and f"crop {self.crop}",
                {True: "lossless", False: "NOT lossless", None: None}[self.lossless],
                self.uint8 and f"bytes by {self.uint8}",
                self.labels and f"labels {self.labels}",
                self.captions and f"captions {_hash(self.captions)}",
            ],
            "reference": [
                self.reference,
                _hash(self.reference_sha256),
                _count(self.reference_images, "images") if self.reference else None,
            ],
            "drawn": [f"{key.replace('_', ' ')} {value}" for key, value in _known(self.drawn)],
            "versions": [f"{name} {version}" for name, version in self.versions.items()],
        }
        lines = [f"{subject}: {', '.join(filter(None, said))}" for subject, said in subjects.items() if any(said)]
        if self.preset:
            lines.append(f"protocol: {self.preset}{_listed(' with deviations: ', deviations(self)) or ', all kept'}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Preset:
    """A published protocol.

    Attributes:
      asks: what it says; None where anything will do.
      metrics: names (modules of `metrics`) of those that it reports, by extractor.
      crop: name (`data.image_set.CROPS`) and side of that of samples and reference, where pictures are cropped.
    """

    asks: Protocol
    metrics: Mapping[str, tuple[str, ...]]
    crop: tuple[str, int] | None = None


#: how samples in [-1, 1] become bytes (`common.pixels`)
BYTES = "floor(127.5 x + 128)"
#: the labels of images of captions
CAPTIONS = "captions, one image each, in order"
_SAMPLES = Protocol(lossless=True, uint8=BYTES)
_ADM = {"inception": ("inception_score", "frechet", "precision_recall")}
_IMAGENET = replace(_SAMPLES, samples=50_000, labels="uniform")
#: by the name that is asked for; the convention of Inception is ADM's in all
PRESETS = {
    "adm-imagenet256": Preset(replace(_IMAGENET, size=256, reference="VIRTUAL_imagenet256_labeled.npz"), _ADM),
    "adm-imagenet512": Preset(replace(_IMAGENET, size=512, reference="VIRTUAL_imagenet512.npz"), _ADM),
    "coco10k": Preset(
        replace(_SAMPLES, samples=10_000, size=256, crop="square 256", labels=CAPTIONS),
        {"inception": ("frechet",), "clip": ("clip_score",)},
        ("square", 256),
    ),
}


def preset(name: str) -> Preset:
    """The one of this name.

    Raises:
      UserError: there is none.
    """
    if name not in PRESETS:
        raise UserError(f"no protocol {name!r}{nearest(name, PRESETS)}")
    return PRESETS[name]


def deviations(protocol: Protocol) -> list[str]:
    """On what a protocol does otherwise than the preset it was made for, or does not say; [] where there is none."""
    if protocol.preset is None:
        return []
    asked = preset(protocol.preset)
    found = []
    if protocol.features not in asked.metrics:
        found.append(f"features {_said(protocol.features)}, not {' or '.join(asked.metrics)}")
    convention = "adm" if protocol.features == "inception" else None
    for key, wanted in _known(replace(asked.asks, convention=convention)):
        own = getattr(protocol, key)
        if own != wanted:
            found.append(f"{_words(key)} {_said(own)}, not {wanted}")
    return found


def differences(ours: Protocol, theirs: Protocol) -> list[str]:
    """What keeps numbers of two protocols out of one table; [] where nothing does.

    How samples were drawn is none of it (see `drawn_differently`), and versions are not.
    """
    apart = ("preset", "drawn", "versions")
    keys = [field.name for field in dataclasses.fields(Protocol) if field.name not in apart]
    return list(_differing(ours, theirs, keys))


def drawn_differently(ours: Protocol, theirs: Protocol) -> list[str]:
    """How two sets of samples differ, such as in their schedule."""
    return list(_differing(ours.drawn, theirs.drawn, [field.name for field in dataclasses.fields(Drawn)]))


def table(rows: Sequence[tuple[str, Protocol, Sequence[Score]]]) -> str:
    """Markdown: a line a set of samples, a column a metric; what differs between protocols is said below.

    Args:
      rows: name, protocol and scores of each; the first is what the others are compared with.
    """
    metrics = list(dict.fromkeys(score.metric for _, _, scores in rows for score in scores))
    lines = [f"| samples | {' | '.join(metrics)} |", f"|{'---|' * (len(metrics) + 1)}"]
    remarks = []
    for name, protocol, scores in rows:
        cells = {score.metric: score.cell() for score in scores}
        unlike = differences(protocol, rows[0][1])
        mark = f" [{len(remarks) + 1}]" if unlike else ""
        if unlike:
            remarks.append(f"[{len(remarks) + 1}] another protocol than the first: {'; '.join(unlike)}")
        lines.append(f"| {name}{mark} | {' | '.join(cells.get(metric, '') for metric in metrics)} |")
    return "\n".join([*lines, *(f"\n{remark}" for remark in remarks)])


def _differing(ours: Any, theirs: Any, keys: Sequence[str]) -> Iterator[str]:
    for key in keys:
        mine, other = getattr(ours, key), getattr(theirs, key)
        if mine != other:
            yield f"{_words(key)} {_said(mine)} here, {_said(other)} there"


def _known(said: Any) -> list[tuple[str, Any]]:
    """Fields that are neither None nor empty, with their values."""
    pairs = ((field.name, getattr(said, field.name)) for field in dataclasses.fields(said))
    return [(key, value) for key, value in pairs if value is not None and key not in ("drawn", "versions")]


def _said(value: Any) -> str:
    return "is not known" if value is None else f"is {value}"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _hash(sha256: str | None) -> str | None:
    return sha256 and f"sha256 {sha256[:12]}"


def _count(count: int | None, noun: str) -> str | None:
    return None if count is None else f"{count:,} {noun}"


def _listed(before: str, said: Sequence[str]) -> str:
    return f"{before}{'; '.join(said)}" if said else ""
