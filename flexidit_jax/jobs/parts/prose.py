"""The report in words, every number out of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flexidit_jax.jobs.parts.figures import comparable

Row = Mapping[str, Any]


def markdown(report: Mapping[str, Any]) -> str:
    """`report.md`."""
    heldout = report["heldout_fd"]
    lines = [
        "# Quality against compute",
        "",
        "| order | solver | schedule | guide | guidance | FLOPs % | seconds % | seconds | FD | accuracy | nearest |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
        *map(_table_row, report["points"]),
        "",
        *findings(report),
        "",
        "## Pictures",
        "",
        "![quality against compute](quality_vs_compute.png)",
        "",
        "![samples](samples.png)",
        "",
        "## How this was measured",
        "",
        f"- FD: Fréchet distance of {report['samples']:,} samples to the training images in the features of a"
        f" classifier fitted on the training images ({100 * report['classifier_accuracy']:.1f} % right on held-out"
        f" images). Floor {report['floor_fd']:.2f}: training images drawn with replacement."
        f" The {heldout['samples']} held-out images score {heldout['fd']:.2f}, mostly sampling error.",
        "- accuracy: how often the classifier finds the label asked for.",
        f"- seconds: {report['seconds_are']}; batches interleaved over the rows.",
        f"- nearest: mean distance to the nearest training image; held-out images: {report['heldout_nearest']:.2f}.",
        "- FLOPs % and seconds % are relative to the first row, which runs every step powerful without guidance.",
        "- machine: " + ", ".join(f"{name} {value}" for name, value in report["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def findings(report: Mapping[str, Any]) -> list[str]:
    """What the numbers say, for and against."""
    plain = comparable(report["points"])
    full = plain[0]
    first = [row for row in plain if row["order"] == "weak_first"][1:]
    last = {round(row["flops_percent"]): row for row in plain if row["order"] == "weak_last"}
    fewer = sorted((row for row in [*plain] if row["order"] == "fewer_steps"), key=lambda row: row["flops_percent"])
    lines = []
    for row in first:
        share = row["flops_percent"]
        text = f"- At {share:.0f} % of the FLOPs weak-first scores FD {row['fd']:.2f},"
        text += f" {row['fd'] / full['fd']:.2f}x of the full run"
        reverse = last.get(round(share))
        if reverse is not None:
            text += f"; the same steps weak-last {reverse['fd']:.2f}"
        if fewer and share >= fewer[0]["flops_percent"]:
            alternative = _at(share, [*fewer, full])
            verdict = "weak-first is better" if row["fd"] < alternative else "simply taking fewer steps is better"
            text += f"; fewer powerful steps {alternative:.2f} (interpolated): {verdict}"
        lines.append(text + ".")
    return lines


def _at(share: float, rows: Sequence[Row]) -> float:
    return float(np.interp(share, [row["flops_percent"] for row in rows], [row["fd"] for row in rows]))


def _table_row(row: Row) -> str:
    order = row["order"].replace("_", " ") if row["guidance"] == 1 else "guided"
    order += f", {row['packing']}" if row["packing"] else ""
    solver = row["solver"] if isinstance(row["solver"], str) else row["solver"]["name"]
    return (
        f"| {order} | {solver} | {row['schedule']} | {row['guide'] or ''} | {row['guidance']:g}"
        f" | {row['flops_percent']:.1f} | {row['seconds_percent']:.1f} | {row['seconds']:.1f} | {row['fd']:.2f}"
        f" | {row['accuracy']:.3f} | {row['nearest']:.2f} |"
    )
