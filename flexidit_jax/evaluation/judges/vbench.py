"""VBench (arXiv 2311.17982): `<prompt>-0.mp4`, five clips of each prompt of its `all_dimension.txt`.

As github.com/Vchitect/VBench reads them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flexidit_jax.common.errors import UserError
from flexidit_jax.text.prompt_files import Prompt


class Folder:
    """See `evaluation.judges`.

    Raises:
      UserError: a prompt that can be no name.
    """

    clips = True

    def __init__(self, prompts: Sequence[Prompt], each: int) -> None:
        self._prompts, self._each = prompts, each
        for number, prompt in enumerate(prompts):
            if "/" in prompt.text:
                raise UserError(f"prompt {number} has a slash, and VBench calls clips by their prompts; leave it out")

    def name(self, number: int) -> str:
        """See `evaluation.judges`."""
        prompt, clip = divmod(number, self._each)
        return f"{self._prompts[prompt].text.strip()}-{clip}.mp4"

    def beside(self, num: int) -> Iterator[tuple[str, str]]:
        """See `evaluation.judges`."""
        return iter(())
