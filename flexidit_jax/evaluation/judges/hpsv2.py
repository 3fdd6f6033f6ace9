"""HPS v2's benchmark (arXiv 2306.09341): `anime/00000.jpg`, numbered as the prompts of `anime.json`.

As github.com/tgxs002/HPSv2 reads them: prompts are its folder `benchmark` of a list a style, or one of these lists.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flexidit_jax.common.errors import UserError
from flexidit_jax.text.prompt_files import STYLES, Prompt


class Folder:
    """See `evaluation.judges`.

    Raises:
      UserError: prompts of no such style, or several pictures of each.
    """

    clips = False

    def __init__(self, prompts: Sequence[Prompt], each: int) -> None:
        self._prompts = prompts
        if each != 1:
            raise UserError(f"HPS v2 reads one picture of each prompt, and sample.images_per_prompt is {each}")
        if other := next((prompt for prompt in prompts if prompt.group not in STYLES), None):
            raise UserError(
                f"HPS v2 has lists of {', '.join(STYLES)}, and these prompts are of {other.group}; --prompts names its"
                " folder of such .json files, or one of them"
            )

    def name(self, number: int) -> str:
        """See `evaluation.judges`."""
        prompt = self._prompts[number]
        return f"{prompt.group}/{prompt.key}.jpg"

    def beside(self, num: int) -> Iterator[tuple[str, str]]:
        """See `evaluation.judges`."""
        return iter(())
