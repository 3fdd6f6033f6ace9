"""The report's page: pictures and words, every number out of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

Row = Mapping[str, Any]


LINES = {
    "weak_first": ("weak steps first (FlexiDiT)", "tab:blue", "o"),
    "weak_last": ("weak steps last", "tab:red", "s"),
    "fewer_steps": ("simply fewer steps", "tab:gray", "^"),
}


def comparable(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that differ from the first, the full run, in their schedule alone."""
    return [row for row in points if row["guidance"] == 1 and row["solver"] == points[0]["solver"]]


def quality_vs_compute(report: Mapping[str, Any]) -> Figure:
    """Frechet distance and accuracy over FLOPs, one line an order, with the floor drawn."""
    figure = Figure(figsize=(10, 4.6), layout="constrained")
    panels = figure.subplots(1, 2)
    plain = comparable(report["points"])
    full = [row for row in plain if row["order"] == "weak_first" and row["flops_percent"] > 99.9]
    for order, (label, colour, marker) in LINES.items():
        rows = [row for row in plain if row["order"] == order]
        if order != "weak_first":
            rows = rows + full  # every line ends in the full run
        rows = sorted(rows, key=lambda row: row["flops_percent"])
        flops = [row["flops_percent"] for row in rows]
        for panel, key in zip(panels, ("fd", "accuracy"), strict=True):
            panel.plot(flops, [row[key] for row in rows], marker=marker, color=colour, label=label)
    panels[0].axhline(report["floor_fd"], color="black", linestyle=":", label="floor (sampling error alone)")
    panels[0].set(ylabel="Fréchet distance to the training set (lower is better)", ylim=(0, None))
    panels[1].set(
        ylabel="label found by the classifier", ylim=(min(0.9, *(row["accuracy"] for row in plain)) - 0.02, 1.005)
    )
    for panel in panels:
        panel.set(xlabel="FLOPs, % of every step powerful", xlim=(0, 104))
        panel.grid(alpha=0.3)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(f"Quality against compute, {report['samples']:,} samples a point")
    return figure


def sample_grid(rows: Sequence[tuple[str, np.ndarray]], columns: int) -> Figure:
    """Rows of images [N, H, W, C] with a label each; the first `columns` images of every row."""
    figure = Figure(figsize=(0.8 * columns + 0.8, 0.85 * len(rows) + 0.5), layout="constrained")
    panels = figure.subplots(len(rows), columns, squeeze=False)
    for axes, (label, images) in zip(panels, rows, strict=True):
        for column, panel in enumerate(axes):
            image = images[column]
            panel.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
    for column, panel in enumerate(panels[0]):
        panel.set_title(str(column), fontsize=9)
    figure.suptitle("rows: share of the FLOPs; columns: class; the same starting noise in every column", fontsize=9)
    return figure


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
