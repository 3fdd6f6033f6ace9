"""How a number was measured, in one value: printed beside it, compared with that of another, and with a published one.

Two numbers say something of two models where their protocols are equal; `differences` names what is not. How samples
were drawn (`Drawn`) is apart: that is what a comparison is usually about.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from flexidit_jax.common.errors import UserError, nearest
from flexidit_jax.metrics.score import Score, metric_of


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
      details: what else decides the features, beside the convention.
      weights: SHA-256 of the file of its weights.
      metrics: keywords of the metrics, by their names (modules of `metrics`).
      samples: how many.
      size: pixels of a side of a sample.
      crop: what was cut out of the samples before features were taken.
      lossless: whether the samples were never a JPEG.
      uint8: how the samples became bytes.
      labels: which classes were asked for: "uniform" (drawn), "balanced" (equally often), or captions.
      captions: SHA-256 of the file of captions.
      reference: its name.
      reference_sha256: of its file.
      reference_images: how many its statistics are of; None where its file does not say.
      reference_compared: how many of them have features that are compared; None where none has.
      reference_size, reference_crop: see `size` and `crop`.
      preset: the protocol that was asked for, if any.
      drawn: how the samples were made.
      versions: of what computed it, by name; they make no difference of protocol.
    """

    features: str | None = None
    convention: str | None = None
    details: str | None = None
    weights: str | None = None
    metrics: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
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
    reference_compared: int | None = None
    reference_size: int | None = None
    reference_crop: str | None = None
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
            "features": [
                self.features,
                self.convention and f"convention {self.convention}",
                self.details,
                _hash(self.weights),
            ],
            "samples": [
                _count(self.samples, "images"),
                *_cut(self.size, self.crop),
                {True: "lossless", False: "NOT lossless", None: None}[self.lossless],
                self.uint8 and f"bytes by {self.uint8}",
                self.labels and f"labels {self.labels}",
                self.captions and f"captions {_hash(self.captions)}",
            ],
            "reference": [
                self.reference,
                _hash(self.reference_sha256),
                _count(self.reference_images, "images"),
                _count(self.reference_compared, "of them compared"),
                *_cut(self.reference_size, self.reference_crop),
            ],
            "drawn": [f"{key.replace('_', ' ')} {value}" for key, value in _known(self.drawn)],
            "versions": [f"{name} {version}" for name, version in self.versions.items()],
        }
        lines = [f"{subject}: {', '.join(filter(None, said))}" for subject, said in subjects.items() if any(said)]
        if self.preset:
            lines.append(f"protocol: {self.preset}{_listed(' with deviations: ', deviations(self)) or ', all kept'}")
        return "\n".join(lines)


class Wanted(NamedTuple):
    """Of an extractor: its convention, and sections of what is measured on its features."""

    convention: str
    metrics: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Preset:
    """A published protocol.

    Attributes:
      asks: what it says; None where anything will do.
      features: what is wanted of every extractor, by its name.
      crop: name (`data.image_set.CROPS`) and side of that of samples and reference, where pictures are cropped.
    """

    asks: Protocol
    features: Mapping[str, Wanted]
    crop: tuple[str, int] | None = None


#: how samples in [-1, 1] become bytes (`common.pixels`)
BYTES = "floor(127.5 x + 128)"
#: the labels of images of captions
CAPTIONS = "captions, one image each, in order"
_SAMPLES = Protocol(lossless=True, uint8=BYTES)
_FRECHET = {"name": "frechet"}
_ADM = {
    "inception": Wanted(
        "adm", ({"name": "inception_score"}, _FRECHET, {"name": "precision_recall", "distance": "float16"})
    )
}
_IMAGENET = replace(_SAMPLES, samples=50_000, labels="uniform", reference_compared=10_000)
#: by the name that is asked for
PRESETS = {
    "adm-imagenet256": Preset(replace(_IMAGENET, size=256, reference="VIRTUAL_imagenet256_labeled.npz"), _ADM),
    "adm-imagenet512": Preset(replace(_IMAGENET, size=512, reference="VIRTUAL_imagenet512.npz"), _ADM),
    "coco10k": Preset(
        replace(_SAMPLES, samples=10_000, size=256, crop="square 256", labels=CAPTIONS, reference_crop="square 256"),
        {"inception": Wanted("adm", (_FRECHET,)), "clip": Wanted("clip-ViT-L/14", ({"name": "clip_score"},))},
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
    if protocol.features not in asked.features:
        found.append(f"features {_said(protocol.features)}, not {' or '.join(asked.features)}")
    convention, metrics = asked.features.get(protocol.features, (None, ()))
    for key, wanted in _known(replace(asked.asks, convention=convention)):
        own = getattr(protocol, key)
        if key.startswith("reference") and (
            protocol.reference is None or (own is None and key == "reference_compared")
        ):
            continue  # nothing is compared
        if own != wanted:
            found.append(f"{_words(key)} {_said(own)}, not {wanted}")
    published = settings_of([metric_of(one, "evaluate.protocol") for one in metrics])
    return found + [f"{what} {_said(own)}, not {wanted}" for what, own, wanted in _unlike(protocol.metrics, published)]


def settings_of(metrics: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Keywords of metrics, by their names."""
    return {type(one).__module__.rpartition(".")[2]: dataclasses.asdict(one) for one in metrics}


def differences(ours: Protocol, theirs: Protocol) -> list[str]:
    """What keeps numbers of two protocols out of one table; [] where nothing does.

    How samples were drawn is none of it (see `drawn_differently`), and versions are not.
    """
    apart = ("preset", "drawn", "versions", "metrics")
    keys = [field.name for field in dataclasses.fields(Protocol) if field.name not in apart]
    metrics = (
        f"{what} {_said(own)} here, {_said(other)} there" for what, own, other in _unlike(ours.metrics, theirs.metrics)
    )
    return [*_differing(ours, theirs, keys), *metrics]


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


def _unlike(
    ours: Mapping[str, Mapping[str, Any]], theirs: Mapping[str, Mapping[str, Any]]
) -> Iterator[tuple[str, Any, Any]]:
    """What metrics that both have are made with otherwise, and how."""
    for name in ours.keys() & theirs.keys():
        for key, value in ours[name].items():
            if value != theirs[name].get(key):
                yield f"{_words(key)} of {_words(name)}", value, theirs[name].get(key)


def _known(said: Any) -> list[tuple[str, Any]]:
    """Fields that are not None, with their values; what is made of parts is left out."""
    pairs = ((field.name, getattr(said, field.name)) for field in dataclasses.fields(said))
    return [(key, value) for key, value in pairs if value is not None and not isinstance(value, (Drawn, Mapping))]


def _said(value: Any) -> str:
    return "is not known" if value is None else f"is {value}"


def _words(key: str) -> str:
    return key.replace("_", " ")


def _cut(size: int | None, crop: str | None) -> list[str | None]:
    return [size and f"{size}x{size}", crop and f"crop {crop}"]


def _hash(sha256: str | None) -> str | None:
    return sha256 and f"sha256 {sha256[:12]}"


def _count(count: int | None, noun: str) -> str | None:
    return None if count is None else f"{count:,} {noun}"


def _listed(before: str, said: Sequence[str]) -> str:
    return f"{before}{'; '.join(said)}" if said else ""
