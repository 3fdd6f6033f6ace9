"""How the scores of images were measured, and what must be said of them: one value, and a few lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from flexidit_jax.evaluation.extraction import Extractor
from flexidit_jax.evaluation.reference import Reference
from flexidit_jax.evaluation.samples import Samples
from flexidit_jax.metrics.moments import Gaussian
from flexidit_jax.metrics.protocol import BYTES, CAPTIONS, Drawn, Protocol, settings_of
from flexidit_jax.metrics.score import Images
from flexidit_jax.metrics.statistics_file import NAMES

VERSIONS = ("flexidit_jax", "jax", "numpy", "pillow")


def protocol_of(
    samples: Samples,
    extractor: Extractor,
    metrics: Sequence[Any],
    captions: str | None,
    reference: Reference | None,
    fitted: Mapping[str, Gaussian],
) -> Protocol:
    """Of the numbers of some samples.

    Args:
      captions: SHA-256 of the file of captions, where samples are of captions.
      reference: what they are compared with.
      fitted: its statistics, where these count.
    """
    said = dict(extractor.protocol)
    weights, convention = said.pop("weights_sha256", None), said.pop("convention", None)
    images, manifest = samples.images, samples.manifest
    protocol = Protocol(
        features=extractor.name,
        convention=convention,
        details=", ".join(f"{key} {value}" for key, value in said.items()) or None,
        weights=weights,
        metrics=settings_of(metrics),
        samples=images.count,
        size=_side(images.shape[:2]),
        crop=images.crop,
        lossless=images.lossless,
        uint8=BYTES if manifest else None,
        labels=manifest.get("labels"),
        drawn=Drawn.of_manifest(manifest),
        versions=_versions(),
    )
    if captions is not None:
        protocol = replace(protocol, labels=CAPTIONS, captions=captions)
    if reference is None:
        return protocol
    return replace(
        protocol,
        reference=reference.path.name,
        reference_sha256=reference.sha256,
        reference_images=fitted["pool"].count if "pool" in fitted else reference.count,
        reference_compared=reference.count if any(metric.compares for metric in metrics) else None,
        reference_size=_side(reference.size),
        reference_crop=reference.crop,
    )


def remarks_on(samples: Samples, before: Sequence[Samples], reference: Reference | None, found: Images) -> list[str]:
    """What must be said of the numbers of some samples, beside their protocol.

    Args:
      before: sets that were scored before.
      reference: what they are compared with.
      found: their features, and what is fitted to them.
    """
    said = [*samples.images.remarks]
    said += [f"they are the images of {one.name}" for one in before if one.images.sha256 == samples.images.sha256]
    for kind in found.fitted:
        [mean, _], count = NAMES[kind], found.fitted[kind].count
        said.append(f"distances of {kind} are of its own {mean}{'' if count is None else f', of {count:,} images'}")
    if found.fitted and (without := [kind for kind in NAMES if kind in found.features and kind not in found.fitted]):
        said.append(f"distances of {', '.join(without)} are of its images, of which it has no statistics")
    if reference is None:
        return said
    said += [f"reference: {remark}" for remark in reference.remarks]
    if reference.sha256 == samples.images.sha256:
        said.append("they are the images of the reference")
    if reference.size not in (None, (size := samples.images.shape[:2])):
        theirs = f"the reference is {_size(reference.size)}"
        said.append(f"they are {_size(size)} and {theirs}, where published protocols have one size")
    if None not in (crops := (samples.images.crop, reference.crop)) and crops[0] != crops[1]:
        said.append(f"they are cropped by {crops[0]!r} and the reference by {crops[1]!r}; crop both alike")
    return said


def _side(size: tuple[int, ...] | None) -> int | None:
    return size[0] if size and size[0] == size[1] else None


def _size(size: tuple[int, ...]) -> str:
    return "x".join(map(str, size))


def _versions() -> dict[str, str]:
    found = {}
    for name in VERSIONS:
        with suppress(PackageNotFoundError):  # such as of a checkout that is not installed
            found[name] = version(name)
    return found
