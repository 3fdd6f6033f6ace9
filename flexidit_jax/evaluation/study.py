"""A study: measured once, kept as JSON, drawn and worded from the JSON alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from flexidit_jax.common.files import folder_written_aside


def write_study(folder: Path, result: Mapping[str, Any], page: str, figures: Mapping[str, Figure]) -> None:
    """Writes the folder, whole or not at all, says what the page says first, and where the rest is.

    Args:
      folder: its name is that of the study: `report/report.json`, `report/report.md`.
      result: JSON-ready.
      page: Markdown.
      figures: by file name, without ending.

    Raises:
      UserError: the folder cannot be written.
    """
    name = folder.name
    with folder_written_aside(folder) as aside:
        (aside / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        (aside / f"{name}.md").write_text(page)
        for file, figure in figures.items():
            figure.savefig(aside / f"{file}.png", dpi=120)
    print(page.split("\n## ")[0])
    print(f"written: {folder}/{name}.md, {', '.join(f'{file}.png' for file in figures)}, {name}.json")
