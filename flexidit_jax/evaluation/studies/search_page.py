"""The page of a search: pictures and words, every number out of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from flexidit_jax.evaluation.studies.quality_page import LINES
from flexidit_jax.evaluation.studies.schedule_search import Row, margin, noise, verdict

WORDS = {
    "same": "the search chose weak-first itself and earned nothing",
    "within noise": "no difference beyond the noise: the search earned nothing",
    "better": "the search is better beyond the noise",
    "worse": "weak-first is better beyond the noise",
    "unknown": "one seed does not tell whether that is noise",
}


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
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, steps=(1, 2, 5, 10)))
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


def markdown(result: Mapping[str, Any]) -> str:
    """`search.md`."""
    scored = result["samples"] is not None
    head = ["budget", "kind", "schedule", "guidance", "GFLOPs"]
    head += ["FLOPs: % of powerful with the same guidance", "% of powerful unguided", "predicted error"]
    head += ["FD", "accuracy"] if scored else []
    lines = [
        "# Searched schedules beside weak-first",
        "",
        f"| {' | '.join(head)} |",
        "|" + "---|" * len(head),
        *(_table_row(row, scored) for row in result["rows"]),
        "",
        *findings(result),
        "",
        "## Pictures",
        "",
        "![gap per step](gaps.png)",
        "",
        "![searched beside weak-first](pareto.png)",
        "",
        "## How this was measured",
        "",
        f"- Gap: mean squared difference between a weaker mode's and the powerful mode's output on {result['records']}"
        " training records noised to the time of each step.",
        "- Predicted error: "
        + {
            "moved": "the gap times the square of how much the step's output moves the sample",
            "none": "the gap",
        }[result["weight"]]
        + ", summed over the steps; the search minimises it within the budget.",
        "- A budget is a share of running every step powerful with the same guidance; GFLOPs are per sample, the"
        " guide's calls included.",
    ]
    if scored:
        lines += [
            f"- FD: Fréchet distance of {result['samples']:,} samples to the training images, mean over the seeds"
            f" {', '.join(map(str, result['seeds']))}; floor {result['floor_fd']:.2f}. All rows draw the same noise.",
        ]
        if any(row["fd_by_scale"] for row in result["rows"]):
            lines += ["- Guidance: the scale of least FD on another seed, which is not scored."]
    return "\n".join(lines) + "\n"


def findings(result: Mapping[str, Any]) -> list[str]:
    """Whether the search earned anything, budget by budget."""
    rows = {(row["budget"], row["kind"]): row for row in result["rows"]}
    pairs = [(budget, row, rows[budget, "weak_first"]) for (budget, kind), row in rows.items() if kind == "searched"]
    if result["samples"] is None:
        lines = [_predicted(*pair) for pair in pairs]
        return [*lines, "- Nothing was scored: the config has no evaluate section."]
    deviation = noise([pair[1:] for pair in pairs])
    lines = [_measured(*pair, verdict(*pair[1:], deviation)) for pair in pairs]
    earned = sum(verdict(*pair[1:], deviation) == "better" for pair in pairs)
    lines.append(f"- In all: the search beats weak-first beyond the noise at {earned} of {len(pairs)} budgets.")
    if deviation is not None:
        seeds = len(result["seeds"])
        lines.append(
            f"- Noise: between seeds these differences vary by {deviation:.4f} (standard deviation, pooled over the"
            f" budgets); a mean over {seeds} seeds counts from three standard errors on,"
            f" {margin(deviation, seeds):.4f}."
        )
    return lines


def _measured(budget: float, found: Row, first: Row, said: str) -> str:
    ours, theirs = np.mean(found["fd"]), np.mean(first["fd"])
    return f"- Budget {budget:g}: searched FD {ours:.3f}, weak-first {theirs:.3f}, {ours / theirs:.3f}x: {WORDS[said]}."


def _predicted(budget: float, found: Row, first: Row) -> str:
    if found["schedule"] == first["schedule"]:
        return f"- Budget {budget:g}: {WORDS['same']}."
    return f"- Budget {budget:g}: predicted error {found['predicted'] / first['predicted']:.2f}x that of weak-first."


def _table_row(row: Row, scored: bool) -> str:
    cells: Sequence[str] = [
        "" if row["budget"] is None else f"{row['budget']:g}",
        row["kind"].replace("_", " "),
        row["schedule"],
        str(row["guidance"]),
        f"{row['gflops']:.4g}",
        f"{row['flops_percent']:.1f}",
        f"{row['flops_percent_unguided']:.1f}" if "flops_percent_unguided" in row else "",  # of an older search
        f"{row['predicted']:.3g}",
    ]
    if scored:
        cells = [*cells, f"{np.mean(row['fd']):.3f}", f"{np.mean(row['accuracy']):.3f}"]
    return f"| {' | '.join(cells)} |"
