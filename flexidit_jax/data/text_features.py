"""Features of texts, made once and kept: of each text its own tokens alone.

    manifest.json                 what features depend on: the encoder, its length and cleaning, the texts, the dtype
    prompts.jsonl                 the texts, a JSON string a line
    shards/000000.array_record    little-endian [m, k] of texts 0 .. shard - 1, m of each its own

At 25 tokens of T5 xxl a text takes 0.2 MB in float16, where all 120 or 300 would take 1 or 2.5.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.files import written_aside
from flexidit_jax.runs.record_shards import PER_FILE, PER_RECORD, RecordShards, absent, opened, parts_of

PROMPTS, MANIFEST = "prompts.jsonl", "manifest.json"
#: words of a manifest that the encoder says: its `fingerprint`, and channels of a token
MADE = ("encoder", "length", "clean", "width")
MAKES = "the same command with --mode=encode makes them"


def digest(prompts: Iterable[str]) -> str:
    """16 hex digits of texts, in their order."""
    return hashlib.sha256("\0".join(prompts).encode(errors="surrogatepass")).hexdigest()[:16]


class TextShards(RecordShards):
    """Features of texts 0 .. num - 1, to be made; see `Shards`.

    Args:
      prompts: the texts.
      made: the encoder's `fingerprint` and `width`.
      dtype: of what is kept, "float16" or "float32".
      shard: texts a file.
    """

    items, extra = "features", (PROMPTS,)

    def __init__(
        self, folder: Path, prompts: Sequence[str], made: Mapping[str, Any], dtype: str = "float16", shard: int = 1024
    ) -> None:
        words = {"num": len(prompts), "shard": shard, "dtype": dtype, **made, "prompts": digest(prompts)}
        super().__init__(folder, words)
        self.prompts, self._dtype = prompts, np.dtype(dtype).newbyteorder("<")

    def size(self, shards: Sequence[int]) -> int:
        """Bytes of the files of `shards`, about: few texts have more than a token for two letters."""
        tokens = sum(
            min(self._words["length"], len(self.prompts[i]) // 2 + 2) for n in map(self.numbers, shards) for i in n
        )
        each = self._words["width"] * self._dtype.itemsize
        return tokens * each + self.count(shards) * PER_RECORD + len(shards) * PER_FILE

    def write_prompts(self) -> None:
        """Writes the texts beside the shards.

        Raises:
          UserError: see `write`.
        """
        try:
            with written_aside(self.folder / PROMPTS) as file, file.open("w", encoding="utf-8") as lines:
                lines.writelines(json.dumps(prompt) + "\n" for prompt in self.prompts)
        except OSError as error:
            raise self.refused(error) from None

    def _save(self, path: Path, shard: int, features: Sequence[np.ndarray]) -> None:
        with np.errstate(over="ignore"):
            kept = [one.astype(self._dtype) for one in features]
        for number, one in zip(self.numbers(shard), kept, strict=True):
            if not np.isfinite(one).all():
                raise UserError(
                    f"features of prompt {number} are not finite in {self._dtype.name}; set encode.dtype=float32"
                )
        self._write(path, (one.tobytes() for one in kept))


class TextFeatures(Sequence):
    """Features of texts that were kept, float32 [m, k] each, read when they are asked for.

    Attributes:
      folder: where they are.
      prompts: the texts.
      made: what the encoder said of itself when it made them.

    Raises:
      UserError: the folder holds none, or not all, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            manifest = json.loads((folder / MANIFEST).read_text())
            self.made = {key: manifest[key] for key in MADE}
            self.prompts = [json.loads(line) for line in (folder / PROMPTS).read_text("utf-8").splitlines()]
            self._dtype, num, size = np.dtype(manifest["dtype"]).newbyteorder("<"), manifest["num"], manifest["shard"]
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise UserError(
                f"{folder} holds no features of texts ({missing} is missing); --mode=encode makes some"
            ) from None
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(f"{folder} holds no features of texts that can be read ({error})") from None
        if len(self.prompts) != num or digest(self.prompts) != manifest.get("prompts"):
            raise UserError(f"{folder / PROMPTS} is not that of these features; encode into another folder")
        self._parts, self._shard = parts_of(folder, num, size), size
        if missing := absent(self._parts):
            there = len(self._parts) - len(missing)
            raise UserError(
                f"{folder} holds {there} of {len(self._parts)} files of features, {missing[0]} is missing; {MAKES}"
            )
        self._records = opened(self._parts)

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, i: int) -> np.ndarray:
        """Those of text i; see `kept`."""
        return self.kept(i).astype(np.float32)

    def kept(self, i: int) -> np.ndarray:
        """The same in the dtype in which they were kept.

        Raises:
          UserError: its file is damaged.
        """
        if not 0 <= i < len(self):
            raise IndexError(i)
        try:
            values = np.frombuffer(self._records[i], self._dtype)
        except (RuntimeError, ValueError) as error:  # every record carries a checksum
            file = self._parts[i // self._shard].filename
            raise UserError(f"{file} is damaged ({str(error).splitlines()[0]}); {MAKES} again") from None
        return values.reshape(-1, self.made["width"])

    def check(self, width: int, length: int, made: Mapping[str, Any] | None = None) -> None:
        """Refuses features that a model does not read.

        Args:
          width, length: k and M of the model.
          made: the `fingerprint` of the encoder that its prompts are read with; None where it is not at hand.

        Raises:
          UserError: features of another encoder, length or cleaning; the first that differs is named.
        """
        wanted = {"width": width, "length": length} | dict(made or {})
        for key, ours in wanted.items():
            if (theirs := self.made[key]) != ours:
                raise UserError(
                    f"{self.folder} holds features of another text encoder: {key} is {theirs!r} there, {ours!r} here;"
                    " encode the prompts again, into another folder"
                )
