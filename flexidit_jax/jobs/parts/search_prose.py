"""What a search found, in words, every number out of its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flexidit_jax.jobs.parts.searched import Row, margin, noise, verdict

WORDS = {
    "same": "the search chose weak-first itself and earned nothing",
    "within noise": "no difference beyond the noise: the search earned nothing",
    "better": "the search is better beyond the noise",
    "worse": "weak-first is better beyond the noise",
    "unknown": "one seed does not tell whether that is noise",
}


def markdown(result: Mapping[str, Any]) -> str:
    """`search.md`."""
    scored = result["samples"] is not None
    head = ["budget", "kind", "schedule", "guidance", "GFLOPs", "FLOPs %", "predicted error"]
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
        "- FLOPs % is relative to running the same calls powerful; GFLOPs are per sample, the guide's calls included.",
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
        f"{row['predicted']:.3g}",
    ]
    if scored:
        cells = [*cells, f"{np.mean(row['fd']):.3f}", f"{np.mean(row['accuracy']):.3f}"]
    return f"| {' | '.join(cells)} |"
