"""Protocols: printed, compared with one another and with published ones."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from flexidit_jax.common import build
from flexidit_jax.common.errors import UserError
from flexidit_jax.metrics.precision_recall import Metric as Precision
from flexidit_jax.metrics.protocol import (
    CAPTIONS,
    PRESETS,
    Drawn,
    Protocol,
    deviations,
    differences,
    drawn_differently,
    preset,
    settings_of,
    table,
)
from flexidit_jax.metrics.score import Score, metric_of

OURS = Protocol(
    features="inception",
    convention="adm",
    weights="6726825d0af5f729" + 48 * "0",
    samples=50_000,
    size=256,
    lossless=True,
    uint8="floor(127.5 x + 128)",
    labels="uniform",
    reference="VIRTUAL_imagenet256_labeled.npz",
    reference_sha256="ab" * 32,
    reference_compared=10_000,
    reference_size=256,
    preset="adm-imagenet256",
    drawn=Drawn(seed=0, solver="ddpm", steps=250, schedule="4:100,2:150", guidance=1.5, guidance_channels=3),
    versions={"jax": "0.10.2"},
)


def test_in_words() -> None:
    assert str(OURS) == "\n".join(
        [
            "features: inception, convention adm, sha256 6726825d0af5",
            "samples: 50,000 images, 256x256, lossless, bytes by floor(127.5 x + 128), labels uniform",
            "reference: VIRTUAL_imagenet256_labeled.npz, sha256 abababababab, 10,000 of them compared, 256x256",
            "drawn: seed 0, solver ddpm, steps 250, schedule 4:100,2:150, guidance 1.5, guidance channels 3",
            "versions: jax 0.10.2",
            "protocol: adm-imagenet256, all kept",
        ]
    )
    assert str(Protocol(samples=12)) == "samples: 12 images"


def test_a_record_is_read_back() -> None:
    record = json.loads(json.dumps(OURS.record()))
    assert Protocol.of_record(record) == OURS
    assert Protocol.of_record({"samples": 5, "later": 1, "drawn": {"seed": 1, "later": 1}}) == Protocol(
        samples=5, drawn=Drawn(seed=1)
    )


def test_how_images_were_drawn_is_read_off_their_manifest() -> None:
    manifest = {
        "num": 8,
        "labels": "uniform",
        "weights": "e8dedd8994c7bfe4",
        "plan": "4:3,2:1; guide: none",
        "sample": {
            "steps": 4,
            "schedule": None,
            "guidance": 1.0,
            "solver": {"name": "sa_solver", "tau": 0.5},
            "seed": 3,
        },
        "model": {"dtype": "float32"},
        "codec": {"weights": None},
    }
    assert Drawn.of_manifest(manifest) == Drawn(
        weights="e8dedd8994c7bfe4",
        seed=3,
        solver="sa_solver tau=0.5",
        steps=4,
        schedule="4:3,2:1; guide: none",
        guidance=1.0,
        dtype="float32",
    )
    assert Drawn.of_manifest({}) == Drawn()


def test_deviations_are_listed() -> None:
    assert deviations(OURS) == []
    assert deviations(replace(OURS, preset=None, samples=3)) == []
    odd = replace(OURS, samples=10_000, labels="balanced", lossless=None)
    assert deviations(odd) == [
        "samples is 10000, not 50000",
        "lossless is not known, not True",
        "labels is balanced, not uniform",
    ]
    assert str(odd).endswith(
        "protocol: adm-imagenet256 with deviations: samples is 10000, not 50000; lossless is not known, not True;"
        " labels is balanced, not uniform"
    )


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_deviates_from_nothing_of_its_own(name: str) -> None:
    for features, (convention, sections) in preset(name).features.items():
        metrics = settings_of([metric_of(one, "evaluate.metrics") for one in sections])
        asked = preset(name).asks
        kept = replace(asked, preset=name, features=features, convention=convention, metrics=metrics)
        kept = replace(kept, reference=asked.reference or "photos")
        assert deviations(kept) == []
        assert deviations(replace(kept, convention="clean")) == [f"convention is clean, not {convention}"]
        assert {one["name"] for one in sections} <= {*build.names("flexidit_jax.metrics", "Metric")}
    assert deviations(Protocol(preset=name))[0].startswith("features is not known, not inception")
    assert len(deviations(Protocol(preset=name))) >= 6


def test_what_a_metric_is_made_with_deviates_and_differs() -> None:
    ours, theirs = (replace(OURS, metrics=settings_of([Precision(distance=kind)])) for kind in ("float32", "float16"))
    assert deviations(theirs) == []
    assert deviations(ours) == ["distance of precision recall is float32, not float16"]
    assert deviations(replace(ours, features="dinov2"))[1:] == []
    assert differences(ours, theirs) == ["distance of precision recall is float32 here, is float16 there"]
    assert differences(ours, OURS) == []  # which measured nothing of it


def test_a_reference_deviates_where_there_is_one() -> None:
    few = replace(OURS, reference_compared=9_000, reference_crop="adm 256")
    assert deviations(few) == ["reference compared is 9000, not 10000"]
    assert deviations(replace(few, reference_compared=None)) == []  # by a distance of moments alone
    coco = replace(few, preset="coco10k", samples=10_000, labels=CAPTIONS, crop="square 256")
    assert deviations(coco) == ["reference crop is adm 256, not square 256"]
    assert deviations(replace(coco, reference=None, features="clip", convention="clip-ViT-B/32")) == [
        "convention is clip-ViT-B/32, not clip-ViT-L/14"
    ]


def test_what_differs() -> None:
    assert differences(OURS, OURS) == []
    other = replace(OURS, convention="clean", reference_images=10_000, versions={}, preset=None, drawn=Drawn(seed=1))
    assert differences(other, OURS) == [
        "convention is clean here, is adm there",
        "reference images is 10000 here, is not known there",
    ]
    assert drawn_differently(other, replace(OURS, drawn=Drawn(seed=0, steps=4))) == [
        "seed is 1 here, is 0 there",
        "steps is not known here, is 4 there",
    ]


def test_no_preset_of_this_name() -> None:
    with pytest.raises(UserError) as caught:
        preset("adm-imagenet-256")
    assert str(caught.value) == "no protocol 'adm-imagenet-256'; did you mean 'adm-imagenet256'?"


def test_one_table_says_where_protocols_differ() -> None:
    half = replace(OURS, drawn=replace(OURS.drawn, schedule="4:125,2:125"))
    clean = replace(OURS, convention="clean")
    rows = [
        ("full", OURS, [Score("fid", 2.271, 0.031, 0.1215), Score("is", 280.0)]),
        ("half", half, [Score("fid", 2.3, 0.031)]),
        ("theirs", clean, [Score("is", 270.0)]),
    ]
    assert table(rows).splitlines() == [
        "| samples | fid | is |",
        "|---|---|---|",
        "| full | 2.271 +- 0.031 (floor 0.121) | 280 |",
        "| half | 2.300 +- 0.031 |  |",
        "| theirs [1] |  | 270 |",
        "",
        "[1] another protocol than the first: convention is clean here, is adm there",
    ]
