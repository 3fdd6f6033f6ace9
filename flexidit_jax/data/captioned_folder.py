"""Files of a folder with captions: of `metadata.jsonl` or `.csv`, of another such file, of texts beside them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from flexidit_jax.common.cores import cores
from flexidit_jax.common.errors import UserError
from flexidit_jax.data.caption_files import METADATA, read_captions
from flexidit_jax.data.captions import ENDINGS, Kind, Pair, Pairs, Said, agreed, is_ending, of_bytes, stem
from flexidit_jax.data.listing import files_below, why_not
from flexidit_jax.data.span import Span


def captioned_folder(path: Path, kind: Kind, caption: str | None = None, captions: Path | None = None) -> Pairs:
    """The files at any depth below a folder that have captions.

    Args:
      kind: of files.
      caption: a column of captions; an ending of texts beside them, such as ".blip.txt"; None for `COLUMNS` and
        `ENDINGS` of `data.captions`.
      captions: the one file of captions, wherever it is; None for those that lie in the folder.

    Raises:
      OSError: the folder cannot be listed.
      UserError: a folder below it cannot be, or see `read_captions`.
    """
    found = Pairs(path)
    files = [] if captions is None else [captions]
    beside = (caption.lower(),) if is_ending(caption) else () if captions or caption else ENDINGS
    metadata = () if captions or is_ending(caption) else METADATA
    mine, texts = [], []
    wanted = (*kind.endings, *beside, *metadata, *(() if captions is None else (captions.name.lower(),)))
    for name in sorted(files_below(path, wanted, found.left_out.add)):
        low = name.lower()
        if captions is not None and path / name == captions:
            continue
        if PurePosixPath(name).name in metadata:
            files.append(path / name)
        elif low.endswith(kind.endings):
            mine.append(name)
        elif low.endswith(beside):
            texts.append(name)
        else:  # such as old_metadata.csv
            found.left_out.add(why_not("file", name), name)
    if captions is None and caption is not None and not is_ending(caption) and not files:
        raise UserError(
            f"{path} has no {' or '.join(METADATA)} with the column dataset.caption={caption!r}; texts beside"
            f" {kind.noun}s are named by their ending, such as '.txt'"
        )
    said: dict[str, list[Said]] = {name: [] for name in mine}
    sizes: dict[str, tuple[int, int]] = {}
    column = None if is_ending(caption) else caption
    for file in files:
        within = file.parent.relative_to(path) if captions is None else PurePosixPath()
        for name, told in read_captions(file, column).items():
            name = str(PurePosixPath(within) / name)
            if name not in said:
                found.left_out.add(kind.alone, name)
                continue
            if told.said is not None:
                said[name].append(told.said)
            if told.size:
                sizes[name] = told.size
    _read_texts(path, texts, beside, said, kind, found)
    for name in mine:
        if (told := agreed(said[name], name, kind, found.left_out)) is not None:
            found.pairs.append(Pair(name, told, Span(os.fspath(path / name)), sizes.get(name)))
    return found


def _read_texts(
    path: Path, texts: Sequence[str], beside: tuple[str, ...], said: Mapping[str, list[Said]], kind: Kind, found: Pairs
) -> None:
    """Adds what texts beside files say, each of all files of its stem."""
    of_stem = defaultdict(list)
    for name in said:
        of_stem[stem(name, "")].append(name)
    mine = {name: of_stem.get(stem(name, _ending(name, beside)), []) for name in texts}
    for name in texts:
        if not mine[name]:
            found.left_out.add(kind.alone, name)
    read = [name for name in texts if mine[name]]
    with ThreadPoolExecutor(4 * cores()) as pool:  # small files: most of the time is waited for
        for name, data in zip(read, pool.map(lambda name: Span(os.fspath(path / name)).read(), read), strict=True):
            for other in mine[name]:
                said[other].append(of_bytes(data))


def _ending(name: str, known: Sequence[str]) -> str:
    return next(ending for ending in known if name.lower().endswith(ending))
