"""A study: measured once, kept as JSON, drawn and worded from the JSON alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import folder_written_aside
from flexidit_jax.runs.workdir import out_folder


def study_folder(out: str | None, default: Path) -> Path:
    """The folder that is asked for, which may be written and holds nothing but an earlier study of the kind.

    Args:
      default: where it is written else, and replaced; its name is that of the study.

    Raises:
      UserError: it may not (see `runs.workdir.out_folder`), or it holds something else.
    """
    folder = out_folder(out, default)
    if out is not None and folder.is_dir():
        kinds = (f"{default.name}.json", f"{default.name}.md", ".png")
        others = sorted(path.name for path in folder.iterdir() if not path.name.endswith(kinds) or path.is_dir())
        if others:
            raise UserError(f"{folder} is there and holds {others[0]}, which no {default.name} has; name another --out")
    return folder


def write_study(folder: Path, name: str, result: Mapping[str, Any], page: str, figures: Mapping[str, Figure]) -> None:
    """Writes the folder, whole or not at all, says what the page says first, and where the rest is.

    Args:
      folder: from `study_folder`.
      name: of the study: `report.json`, `report.md`.
      result: JSON-ready.
      page: Markdown.
      figures: by file name, without ending.

    Raises:
      UserError: the folder cannot be written.
    """
    with folder_written_aside(folder) as aside:
        (aside / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n")
        (aside / f"{name}.md").write_text(page)
        for file, figure in figures.items():
            figure.savefig(aside / f"{file}.png", dpi=120)
    print(page.split("\n## ")[0])
    print(f"written: {folder}/{name}.md, {', '.join(f'{file}.png' for file in figures)}, {name}.json")
