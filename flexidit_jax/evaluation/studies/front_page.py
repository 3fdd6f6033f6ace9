"""The front over guidance: what a scale gives in distance and takes in accuracy, by budget (FlexiDiT figure 7)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

Row = Mapping[str, Any]


def front(points: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of a report that differ from the full run in schedule and scale alone, by schedule, scales ascending.

    Empty where no scale is another than 1.
    """
    full = points[0]
    alike = [row for row in points if row["solver"] == full["solver"] and not row["guide"] and not row["packing"]]
    guided = [row["schedule"] for row in alike if row["guidance"] != 1]
    rows = sorted((row for row in alike if row["schedule"] in guided), key=lambda row: row["guidance"])
    return {name: [row for row in rows if row["schedule"] == name] for name in dict.fromkeys(guided)}


def guidance_front(report: Mapping[str, Any]) -> Figure:
    """Frechet distance over accuracy: one line a budget, along which the scale rises."""
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    panel = figure.subplots()
    for number, rows in enumerate(front(report["points"]).values()):
        over, up, colour = [row["accuracy"] for row in rows], [row["fd"] for row in rows], f"C{number % 10}"
        panel.plot(over, up, label=_share(rows), marker="o^sDvPX*"[number % 8], color=colour)
        panel.errorbar(over, up, [2 * row["fd_error"] for row in rows], fmt="none", ecolor=colour, alpha=0.5)
        for row, x, y in zip(rows, over, up) if number == 0 else ():
            panel.annotate(f"{row['guidance']:g}", (x, y), textcoords="offset points", xytext=(5, 5), fontsize=9)
    panel.set(xlabel=found(report), ylabel="Fréchet distance to the training set (lower is better)", ylim=(0, None))
    panel.grid(alpha=0.3)
    panel.legend(frameon=False)
    figure.suptitle("Scales of guidance (at the points of the full run) by budget; +- 2 standard errors", fontsize=10)
    return figure


def front_lines(report: Mapping[str, Any]) -> list[str]:
    """The section of the page; nothing where there is no front."""
    fronts = front(report["points"])
    if not fronts:
        return []
    scales = [row["guidance"] for row in next(iter(fronts.values()))]
    return [
        "## The front over guidance",
        "",
        "Each cell is FD / accuracy; a share is of the FLOPs of the full run with the same guidance.",
        "",
        f"| schedule | FLOPs | {' | '.join(f'guidance {scale:g}' for scale in scales)} |",
        "|---" * (2 + len(scales)) + "|",
        *(f"| {schedule} | {_share(rows)} | {' | '.join(map(_cell, rows))} |" for schedule, rows in fronts.items()),
        "",
        "![front over guidance](guidance_front.png)",
        "",
    ]


def found(report: Mapping[str, Any]) -> str:
    """What accuracy is, in words."""
    return f"{'all words of the caption' if 'captions' in report else 'label'} found by the classifier"


def _share(rows: Sequence[Row]) -> str:
    return f"{rows[0]['flops_percent_guided']:.0f} %"


def _cell(row: Row) -> str:
    return f"{row['fd']:.2f} / {row['accuracy']:.3f}"
