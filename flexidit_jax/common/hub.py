"""Models by their name at the Hugging Face hub: a path or such a name -> a path.

`owner/model`, `owner/model@revision`, and after `hf:` also one file of many, `hf:owner/models/XL.pt@revision`.

Only names want the extra `hub`. Its own cache (`HF_HOME`, `HF_HUB_CACHE`) and its switch `HF_HUB_OFFLINE` hold.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from flexidit_jax.common.errors import UserError, first_line, nearest
from flexidit_jax.common.notes import note
from flexidit_jax.common.weights import all_shards

#: the names of all files of a model -> those that are needed; raises `UserError` where it holds none
Needed = Callable[[Sequence[str]], Sequence[str]]

FORCED = "hf:"
_NAME = re.compile(r"(?P<model>\w[\w.-]*/[\w.-]+)(?P<file>/[^@]+)?(?:@(?P<revision>[\w./-]+))?")
UNITS = {"GB": 1e9, "MB": 1e6, "kB": 1e3}
_COMMIT = re.compile("[0-9a-f]{40}")


class Fetched(NamedTuple):
    """A model of the hub on this machine.

    Attributes:
      model: `owner/model`.
      commit: 40 hex digits.
      folder: that holds its files.
    """

    model: str
    commit: str
    folder: Path


_fetched: dict[tuple[str, str, Needed], Fetched] = {}  # by cache, text and what is needed: asked for once


def located(text: str, needed: Needed) -> Path:
    """The path that a user means: a path, or a model of the hub, of which the files that are needed are fetched.

    What exists here is a path, and `owner/model` else a name. After `hf:` it always is one.

    Args:
      text: as typed.
      needed: picks the files to fetch.

    Returns:
      The path; one that does not exist where `text` could be no name.

    Raises:
      UserError: a name that cannot be read, with both readings of it; or what `needed` raises.
    """
    path, match, forced = Path(text).expanduser(), _read(text), text.startswith(FORCED)
    if not forced and (path.exists() or match is None or match["file"]):
        return path
    if match is None:
        raise UserError(f"{text} names no model of the hub; write hf:owner/model or hf:owner/model@revision")
    here = "" if forced else "does not exist here, and as a model of the hub it "
    file = (match["file"] or "").strip("/")
    try:
        from huggingface_hub import constants
        from huggingface_hub.utils import HFValidationError, validate_repo_id
    except ImportError:
        raise UserError(f"{text} {here}wants huggingface_hub (pip install -e '.[hub]')") from None
    try:
        validate_repo_id(match["model"])
    except HFValidationError:
        if not forced:
            return path
        raise UserError(f"{text} names no model of the hub, whose names have other letters") from None
    key = constants.HF_HUB_CACHE, text, needed
    if key not in _fetched:
        try:
            wanted = partial(_one, file) if file else needed
            _fetched[key] = _fetch(match["model"], match["revision"] or "main", wanted)
        except _Refused as error:
            raise UserError(f"{text} {here}{error}") from None
        except UserError as error:
            raise UserError(f"{text}: {error}") from None
        if (full := pinned(text)) != text:
            note(f"{text} is {full}")
    return _fetched[key].folder / file


def pinned(text: str, earlier: object = None) -> str:
    """`hf:owner/model@commit` where `text` is a name that was fetched: what it stood for; else `text`.

    Args:
      text: as typed.
      earlier: what was recorded for it before; it is kept where it pins the same name and nothing was fetched anew.
    """
    if not text.startswith(FORCED) and Path(text).expanduser().exists():
        return text
    match, before = _read(text), _read(earlier) if isinstance(earlier, str) else None
    for (_, asked, _), found in _fetched.items():
        if asked == text:
            return f"{FORCED}{found.model}{match['file'] or ''}@{found.commit}"
    same = match and before and match.group("model", "file") == before.group("model", "file")
    return earlier if same and not match["revision"] and _COMMIT.fullmatch(before["revision"] or "") else text


def _read(text: str) -> re.Match[str] | None:
    return _NAME.fullmatch(text.removeprefix(FORCED))


def _one(file: str, names: Sequence[str]) -> Sequence[str]:
    """A file that is asked for, and the `config.json` beside it."""
    if file not in names:
        raise UserError(f"it holds no {file}{nearest(file, names)}")
    folder = file.rpartition("/")[0]
    beside = f"{folder}/config.json" if folder else "config.json"
    return [file, *(name for name in names if name == beside)]


class _Refused(Exception):
    """Why a name cannot be read, as the end of a sentence."""


def _fetch(model: str, revision: str, needed: Needed) -> Fetched:
    from huggingface_hub import HfApi, constants, snapshot_download

    reason = "HF_HUB_OFFLINE is set"
    if not constants.HF_HUB_OFFLINE:
        try:
            info = HfApi().model_info(model, revision=revision, timeout=10, files_metadata=True)
            wanted = needed([file.rfilename for file in info.siblings])
            if size := sum(file.size or 0 for file in info.siblings if file.rfilename in wanted):
                note(f"{model} at the hub: {_bytes(size)} in {len(wanted)} files, fetched unless the cache has them")
            files = [glob.escape(file) for file in wanted]
            folder = Path(snapshot_download(model, revision=revision, allow_patterns=files))
            return Fetched(model, folder.name, folder)
        except UserError:
            raise
        except Exception as error:  # of the library, of its transport or of the system
            reason = first_line(error)
    try:
        there = _cached(model, revision, needed)
    except UserError as error:
        raise _Refused(f"cannot be read ({reason}); of what the cache has of it: {error}") from None
    if there is not None:
        note(f"the hub is not asked for {model} ({reason}); its cache has it")
        return there
    raise _Refused(f"cannot be read ({reason}), nor does the cache hold all of it")


def _bytes(count: int) -> str:
    """In the largest unit of which there is one."""
    unit = next((unit for unit in ("GB", "MB") if count >= UNITS[unit]), "kB")
    return f"{count / UNITS[unit]:.1f} {unit}"


def _cached(model: str, revision: str, needed: Needed) -> Fetched | None:
    """What the cache holds of a model, None where it does not know it, or not all shards.

    Raises:
      UserError: it has none of the needed files.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    storage = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=model, repo_type="model")
    try:
        commit = revision if _COMMIT.fullmatch(revision) else (storage / "refs" / revision).read_text().strip()
    except (OSError, ValueError):
        return None
    folder = storage / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not folder.is_dir():
        return None
    files = needed([file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()])
    return Fetched(model, commit, folder) if all_shards(files) else None
