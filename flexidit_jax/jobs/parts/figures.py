"""The report's pictures, drawn from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

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


def gap_per_step(result: Mapping[str, Any]) -> Figure:
    """The gap of every weaker mode over the steps (FlexiDiT Fig. 4), beside the error it leaves in the sample."""
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    named = (
        ("gaps", "weak output − powerful output, mean square"),
        ("errors", "error left in the sample, mean square"),
    )
    for panel, (key, label) in zip(panels, named, strict=True):
        for number, (scale, by_mode) in enumerate(result[key].items()):
            for colour, (mode, values) in enumerate(zip(result["modes"][1:], by_mode[1:], strict=True)):
                guided = "" if len(result[key]) == 1 else f", guidance {scale}"
                style = {"color": f"C{colour}", "linestyle": ("-", "--", ":", "-.")[number % 4]}
                panel.plot(np.arange(len(values)), values, label=f"patch {mode}{guided}", **style)
        panel.set(xlabel="step, noise first", ylabel=label, yscale="log")
        panel.grid(alpha=0.3)
    panels[0].legend(frameon=False)
    figure.suptitle(f"What a weaker mode costs at each step, {result['records']} records")
    return figure


def pareto(result: Mapping[str, Any]) -> Figure:
    """Frechet distance (predicted error where nothing was scored) over FLOPs, searched beside weak-first."""
    figure = Figure(figsize=(6.4, 4.6), layout="constrained")
    panel = figure.subplots()
    scored = result["samples"] is not None
    full = [row for row in result["rows"] if row["kind"] == "full"]
    for kind, label, colour, marker in (
        ("weak_first", LINES["weak_first"][0], LINES["weak_first"][1], "o"),
        ("searched", "searched", "tab:orange", "D"),
    ):
        rows = sorted([row for row in result["rows"] if row["kind"] == kind] + full, key=lambda row: row["gflops"])
        scores = [row["fd"] if scored else [row["predicted"]] for row in rows]
        flops, means = [row["gflops"] for row in rows], [np.mean(score) for score in scores]
        ends = [[mean - min(score) for mean, score in zip(means, scores, strict=True)]]
        ends += [[max(score) - mean for mean, score in zip(means, scores, strict=True)]]
        panel.errorbar(flops, means, ends, marker=marker, color=colour, label=label, capsize=3, alpha=0.8)
    if scored:
        panel.axhline(result["floor_fd"], color="black", linestyle=":", label="floor (sampling error alone)")
    panel.set(xlabel="GFLOPs per sample", ylabel="Fréchet distance" if scored else "predicted error")
    panel.set_ylim(0, None)
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    title = f"{result['samples']:,} samples a point, bars from seed to seed" if scored else "predicted, not scored"
    panel.set_title(title, fontsize=10)
    return figure
