"""The page of scores: tables, what differs and by how much, how it was measured; all out of the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from matplotlib.figure import Figure

from flexidit_jax.metrics.estimate import Difference
from flexidit_jax.metrics.protocol import Protocol, drawn_differently, table
from flexidit_jax.metrics.score import Score

Row = Mapping[str, Any]
#: letters of a name that a picture has room for
ROOM = 28


def markdown(result: Mapping[str, Any]) -> str:
    """`evaluation.md`; what comes before its second heading is printed too."""
    lines = ["# Scores"]
    for features, rows in _by_features(result):
        lines += ["", table([(row["samples"], _protocol(row), _scores(row)) for row in rows]), ""]
        lines += _how(rows)
        lines += [_difference(one) for one in result["differences"] if one["features"] == features]
        for number, row in enumerate(rows):
            lines += ["", *_measured(row, rows[0] if number else None)]
    return "\n".join(
        [
            *lines,
            "",
            "## Pictures",
            "",
            "![scores](scores.png)",
            "",
            "## What the numbers are",
            "",
            "+-: in a table one standard error, of what drawing the samples adds; two of a difference. Neither bias nor"
            " the training is in it. Floor: what a perfect model would score with as many samples.",
            "",
        ]
    )


def picture(result: Mapping[str, Any]) -> Figure:
    """A panel a number: every set of samples with two standard errors to both sides, and the floor."""
    panels = [(rows, metric) for _, rows in _by_features(result) for metric in rows[0]["scores"]]
    names = list(dict.fromkeys(row["samples"] for row in result["rows"]))
    columns = min(len(panels), 3)
    lines = -(-len(panels) // columns)
    size = (1.5 + 3.2 * columns, lines * (1.2 + 0.3 * len(names)) + 0.4)
    figure = Figure(figsize=size, layout="constrained")
    axes = [*figure.subplots(lines, columns, squeeze=False, sharey=True).flat]
    for panel, (rows, metric) in zip(axes, panels):
        for place, score in enumerate(row["scores"][metric] for row in rows):
            panel.errorbar(score["value"], place, xerr=2 * (score["error"] or 0), fmt="o", color="tab:blue", capsize=3)
            if score["floor"] is not None:
                panel.plot([score["floor"]] * 2, [place - 0.3, place + 0.3], color="black", linestyle=":")
        panel.set_title(f"{metric} ({rows[0]['features']})", fontsize=9)
        panel.set_yticks(range(len(names)), [name[-ROOM:] for name in names])
        panel.set_ylim(len(names) - 0.5, -0.5)
        panel.grid(axis="x", alpha=0.3)
        panel.locator_params(axis="x", nbins=4)
    for panel in axes[len(panels) :]:
        panel.set_visible(False)
    figure.suptitle("+- 2 standard errors; dotted: the floor of as many perfect samples", fontsize=9)
    return figure


def _by_features(result: Mapping[str, Any]) -> list[tuple[str, list[Row]]]:
    return [(name, list(rows)) for name, rows in groupby(result["rows"], lambda row: row["features"])]


def _protocol(row: Row) -> Protocol:
    return Protocol.of_record(row["protocol"])


def _scores(row: Row) -> list[Score]:
    return [Score(metric, **record) for metric, record in row["scores"].items()]


def _how(rows: Sequence[Row]) -> list[str]:
    """What numbers depend on beside the protocol, a line for all that share it."""
    said: dict[tuple[str, str], list[str]] = {}
    for metric in rows[0]["scores"]:
        each = {f" of {row['samples']}": row["scores"][metric]["how"] for row in rows}
        if len({*each.values()}) == 1:
            each = {"": rows[0]["scores"][metric]["how"]}
        for whose, how in each.items():
            if how:
                said.setdefault((whose, how), []).append(metric)
    return [f"- {', '.join(metrics)}{whose}: {how}" for (whose, how), metrics in said.items()]


def _difference(one: Row) -> str:
    found = Difference(one["value"], one["error"], one["paired"])
    kind = "paired" if found.paired else "as drawn apart"
    return f"- {one['metric']} of {one['samples']} less that of {one['less']}: {found}, {kind}"


def _measured(row: Row, first: Row | None) -> Sequence[str]:
    """How a row was measured; of one that another precedes, how its samples were drawn differently."""
    if first is None:
        return [f"{row['samples']} in {row['features']}:", "", "```", str(_protocol(row)), *row["remarks"], "```"]
    unlike = drawn_differently(_protocol(row), _protocol(first))
    said = "; ".join([*unlike, *row["remarks"]]) or "nothing that is known of how it was drawn"
    return [f"{row['samples']} differs from {first['samples']}: {said}"]
