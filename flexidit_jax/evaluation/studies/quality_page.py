"""The report's page: pictures and words, every number out of its JSON."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from flexidit_jax.evaluation.reading import Images
from flexidit_jax.evaluation.studies.front_page import found, front, front_lines
from flexidit_jax.metrics.estimate import Difference, with_error

Row = Mapping[str, Any]

#: inches of a letter of a title, at 9 points
LETTER = 0.075

#: of other solvers and of guidance
COLOURS = ("tab:orange", "tab:green", "tab:purple", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
LINES = {
    "weak_first": ("weak steps first (FlexiDiT)", "tab:blue", "o"),
    "weak_last": ("weak steps last", "tab:red", "s"),
    "fewer_steps": ("simply fewer steps", "tab:gray", "^"),
}


def comparable(points: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The rows that differ from the first, the full run, in their schedule alone."""
    return [row for row in points if row["guidance"] == 1 and row["solver"] == points[0]["solver"]]


def others(points: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of other solvers and of guidance, by what sets them apart; packing changes no score.

    Those of a front have a picture of their own.
    """
    kinds: dict[str, list[Row]] = {}
    fronts = [row for rows in front(points).values() for row in rows]
    for row in points:
        if row in comparable(points) or row in fronts or row["packing"]:
            continue
        steps = sum(int(run.partition(":")[2]) for run in row["schedule"].split(","))
        kind = f"{_solver(row)}, {steps} steps"
        if row["guidance"] != 1:
            kind += f", guidance {row['guidance']:g}" + (f", guide {row['guide']}" if row["guide"] else "")
        kinds.setdefault(kind, []).append(row)
    return kinds


def quality_vs_compute(report: Mapping[str, Any]) -> Figure:
    """Frechet distance and accuracy over FLOPs: one line an order, other solvers and guidance, and the floor."""
    kinds = others(report["points"])
    figure = Figure(figsize=(10, 4.6 + 0.2 * -(-len(kinds) // 3)), layout="constrained")
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
        panels[0].vlines(flops, *zip(*map(_ends, rows)), color=colour, alpha=0.6)
    for number, (label, rows) in enumerate(kinds.items()):
        rows = sorted(rows, key=lambda row: row["flops_percent"])
        style = {"marker": "DvPX*d<>"[number % 8], "color": COLOURS[number % len(COLOURS)], "fillstyle": "none"}
        for panel, key in zip(panels, ("fd", "accuracy"), strict=True):
            panel.plot([row["flops_percent"] for row in rows], [row[key] for row in rows], ":", label=label, **style)
    panels[0].axhline(report["floor_fd"], color="black", linestyle=":", label="floor (sampling error alone)")
    panels[0].set(ylabel="Fréchet distance to the training set (lower is better)", ylim=(0, None))
    drawn = [*plain, *(row for rows in kinds.values() for row in rows)]
    least, most = (of(row[key] for row in drawn) for of, key in ((min, "accuracy"), (max, "flops_percent")))
    panels[1].set(ylabel=found(report), ylim=(min(0.9, least) - 0.02, 1.005))
    for panel in panels:
        panel.set(xlabel="FLOPs, % of every step powerful without guidance", xlim=(0, 1.04 * max(100, most)))
        panel.grid(alpha=0.3)
    entries = panels[0].get_legend_handles_labels()
    figure.legend(*entries, loc="outside lower center", ncols=3 if kinds else 4, frameon=False)
    hollow = ", hollow one seed" if kinds else ""
    seeds = f", mean and range of {_seeds(report)} seeds{hollow}"
    if _seeds(report) == 1:
        seeds = ", +- 2 standard errors" if "fd_error" in report["points"][0] else ""
    figure.suptitle(f"Quality against compute, {report['samples']:,} samples a point{seeds}")
    return figure


def sample_grid(rows: Sequence[tuple[str, Images]], titles: Sequence[str], what: str = "class") -> Figure:
    """Rows of images with a label each; the first of every row, one below each title.

    Args:
      what: a title is.
    """
    sides = np.array([image.shape[:2] for image, _ in zip(rows[0][1], titles)]) / min(rows[0][1][0].shape[:2])
    high, wide = sides[:, 0].max(), sides[:, 1]
    size = (0.8 * wide.sum() + 0.8, 0.85 * len(rows) * high + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    panels = figure.subplots(len(rows), len(titles), squeeze=False, width_ratios=wide)
    for axes, (label, images) in zip(panels, rows, strict=True):
        for column, panel in enumerate(axes):
            image = images[column]
            panel.imshow(image[..., 0] if image.shape[-1] == 1 else image, cmap="gray", vmin=0, vmax=255)
            panel.set(xticks=[], yticks=[])
        axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
    above = [textwrap.wrap(title, int(0.8 * part / LETTER)) for title, part in zip(titles, wide, strict=True)]
    for panel, lines in zip(panels[0], above, strict=True):
        panel.set_title("\n".join(lines), fontsize=9)
    title = f"rows: share of the FLOPs; columns: {what}; the same starting noise in every column"
    lines = textwrap.wrap(title, int(figure.get_figwidth() / LETTER))
    more = len(lines) - 1 + max(map(len, above)) - 1
    figure.set_figheight(figure.get_figheight() + 0.15 * more)
    figure.suptitle("\n".join(lines), fontsize=9)
    return figure


def markdown(report: Mapping[str, Any]) -> str:
    """`report.md`."""
    captions = report.get("captions")
    titles = ["accuracy", *(["of captions never trained on"] if captions else []), "nearest"]
    lines = [
        "# Quality against compute",
        "",
        "| order | solver | schedule | guide | guidance | FLOPs: % of powerful unguided | % of powerful with the same"
        f" guidance | seconds % | seconds | FD | {' | '.join(titles)} |",
        "|---" * (10 + len(titles)) + "|",
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
        *front_lines(report),
        "## How this was measured",
        "",
        _about_distance(report),
        _about_seeds(report),
        *_about_errors(report),
        _about_accuracy(captions),
        f"- seconds: {report['seconds_are']}; batches interleaved over the rows.",
        f"- nearest: mean distance to the nearest training image{' part by part' if captions else ''}; held-out"
        f" images: {report['heldout_nearest']:.2f}.",
        "- FLOPs and seconds % are relative to the first row, which runs every step powerful without guidance; the"
        " second share of FLOPs is of that row with the guidance of this one.",
        "- machine: " + ", ".join(f"{name} {value}" for name, value in report["versions"].items()),
    ]
    return "\n".join(lines) + "\n"


def findings(report: Mapping[str, Any]) -> list[str]:
    """What the numbers say, for and against; with several seeds, nothing of differences that seeds make too."""
    plain = comparable(report["points"])
    full = plain[0]
    first = [row for row in plain if row["order"] == "weak_first"][1:]
    last = {round(row["flops_percent"]): row for row in plain if row["order"] == "weak_last"}
    fewer = sorted((row for row in plain if row["order"] == "fewer_steps"), key=lambda row: row["flops_percent"])
    lines = []
    for row in first:
        share = row["flops_percent"]
        text = f"- At {share:.0f} % of the FLOPs weak-first scores FD {_score(row)},"
        text += f" {row['fd'] / full['fd']:.2f}x of the full run"
        if "against_full" in row:
            text += f", a difference of {_against_full(row)}"
        elif _seeds(report) > 1 and not apart(by_seed(row), by_seed(full)):
            text += ", which is no more than seeds make"
        reverse = last.get(round(share))
        if reverse is not None:
            text += f"; the same steps weak-last {_score(reverse)}"
        if fewer and share >= fewer[0]["flops_percent"]:
            alternative = _at(share, [*fewer, full])
            verdict = "the difference is no more than seeds make"
            if apart(by_seed(row), alternative):
                better = row["fd"] < np.mean(alternative)
                verdict = "weak-first is better" if better else "simply taking fewer steps is better"
            text += f"; fewer powerful steps {np.mean(alternative):.2f} (interpolated): {verdict}"
        lines.append(text + ".")
        if "accuracy_unseen" in row:
            lines[-1] += f" All words are right {_words_right(row, '')}; of captions never trained on"
            lines[-1] += f" {_words_right(row, '_unseen')}."
    return lines


def by_seed(row: Row) -> list[float]:
    """The Frechet distances of a row, one a seed."""
    return row.get("fd_by_seed", [row["fd"]])


def apart(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether the means of two rows differ by more than the seeds of either do; one seed tells nothing else."""
    return abs(np.mean(ours) - np.mean(theirs)) > max(np.ptp(ours), np.ptp(theirs))


def _seeds(report: Mapping[str, Any]) -> int:
    return len(by_seed(report["points"][0]))


def _about_seeds(report: Mapping[str, Any]) -> str:
    if _seeds(report) == 1:
        return (
            "- One seed of sampling: another one scores differently, and no difference as small as that says anything."
            " `--config.report.seeds=0,1,2` measures it."
        )
    return (
        f"- Means of {_seeds(report)} seeds, each the same noise for all rows, and their range, where rows differ from"
        " the first in their schedule alone; the other rows are one seed."
    )


def _about_errors(report: Mapping[str, Any]) -> list[str]:
    if "fd_error" not in report["points"][0]:  # of an older report
        return []
    return [
        "- +-: in the table one standard error, of what drawing the samples adds; two of a difference to the full run,"
        " which has the same noise and labels. What training adds is in neither."
    ]


def _about_distance(report: Mapping[str, Any]) -> str:
    learned, read, which = "the training images", "images", ""
    if "captions" in report:
        learned, read = f"parts of {learned}", "parts; those of all parts of an image together"
        which = ", of them those of captions that are trained on,"
    heldout = report["heldout_fd"]
    return (
        f"- FD: Fréchet distance of {report['samples']:,} samples{which} to the training images in the features of a"
        f" classifier fitted on {learned} ({100 * report['classifier_accuracy']:.1f} % right on held-out {read})."
        f" Floor {report['floor_fd']:.2f}: training images drawn with replacement."
        f" The {heldout['samples']} held-out images score {heldout['fd']:.2f}, mostly sampling error."
    )


def _about_accuracy(captions: Mapping[str, int] | None) -> str:
    if captions is None:
        return "- accuracy: how often the classifier finds the label asked for."
    return (
        f"- accuracy: how often the classifier finds all words of a caption in the {captions['parts']} parts of its"
        f" picture; of {captions['count'] - captions['unseen']:,} captions that are trained on, and of"
        f" {captions['unseen']:,} that never are."
    )


def _words_right(row: Row, which: str) -> str:
    """`0.81 +- 0.02 of the time, a difference of -0.010 +- 0.012 (a tie)`."""
    key = f"accuracy{which}"
    more = Difference(row["against_full"][key], row["against_full"][f"{key}_error"], paired=True)
    return f"{with_error(row[key], row[f'{key}_error'])} of the time, a difference of {more}"


def _score(row: Row) -> str:
    """`0.81 +- 0.02`, or with several seeds `0.81 +- 0.01 (0.79 to 0.84)`."""
    scores = by_seed(row)
    score = with_error(row["fd"], row["fd_error"]) if "fd_error" in row else f"{row['fd']:.2f}"
    return score + (f" ({min(scores):.2f} to {max(scores):.2f})" if len(scores) > 1 else "")


def _against_full(row: Row) -> Difference:
    return Difference(row["against_full"]["fd"], row["against_full"]["error"], paired=True)


def _ends(row: Row) -> tuple[float, float]:
    """Of the bar of a point: the range of its seeds, or of one seed two standard errors to both sides."""
    scores, two = by_seed(row), 2 * row.get("fd_error", 0)
    return (min(scores), max(scores)) if len(scores) > 1 else (row["fd"] - two, row["fd"] + two)


def _at(share: float, rows: Sequence[Row]) -> list[float]:
    """By seed, between the rows of the nearest shares."""
    shares = [row["flops_percent"] for row in rows]
    return [float(np.interp(share, shares, scores)) for scores in zip(*map(by_seed, rows), strict=True)]


def _solver(row: Row) -> str:
    return row["solver"] if isinstance(row["solver"], str) else row["solver"]["name"]


def _table_row(row: Row) -> str:
    order = row["order"].replace("_", " ") if row["guidance"] == 1 else "guided"
    order += f", {row['packing']}" if row["packing"] else ""
    flops = f"{row['flops_percent']:.1f}"
    guided = f"{row['flops_percent_guided']:.1f}" if "flops_percent_guided" in row else ""  # of an older report
    unseen = f" | {row['accuracy_unseen']:.3f}" if "accuracy_unseen" in row else ""
    return (
        f"| {order} | {_solver(row)} | {row['schedule']} | {row['guide'] or ''} | {row['guidance']:g}"
        f" | {flops} | {guided} | {row['seconds_percent']:.1f} | {row['seconds']:.1f} | {_score(row)}"
        f" | {row['accuracy']:.3f}{unseen} | {row['nearest']:.2f} |"
    )
