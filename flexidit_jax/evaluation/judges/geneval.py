"""GenEval (arXiv 2310.11513): `00000/samples/0000.png`, and in `00000/metadata.jsonl` the line of its prompt.

As github.com/djghosh13/geneval reads them: prompts are its `evaluation_metadata.jsonl`, four pictures of each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from flexidit_jax.common.errors import UserError
from flexidit_jax.text.prompt_files import Prompt


class Folder:
    """See `evaluation.judges`.

    Raises:
      UserError: prompts without the lines that say what GenEval looks for.
    """

    clips = False

    def __init__(self, prompts: Sequence[Prompt], each: int) -> None:
        self._prompts, self._each = prompts, each
        for number, prompt in enumerate(prompts):
            if not isinstance(prompt.line, dict) or not {"prompt", "tag"} <= prompt.line.keys():
                raise UserError(
                    f"prompt {number} has no tag, which GenEval reads; --prompts names its evaluation_metadata.jsonl"
                )

    def name(self, number: int) -> str:
        """See `evaluation.judges`."""
        prompt, picture = divmod(number, self._each)
        return f"{prompt:05d}/samples/{picture:04d}.png"

    def beside(self, num: int) -> Iterator[tuple[str, str]]:
        """See `evaluation.judges`."""
        for number, prompt in enumerate(self._prompts[: -(-num // self._each)]):
            yield f"{number:05d}/metadata.jsonl", json.dumps(prompt.line) + "\n"
