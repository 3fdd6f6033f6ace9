"""GenAI-Bench, scored by VQAScore (arXiv 2404.01291): `00000.jpeg`, named as the prompts of `genai_image.json`.

As github.com/linzhiqiu/t2v_metrics reads them, with --output_dir=OUT --gen_model=images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from flexidit_jax.common.errors import UserError
from flexidit_jax.text.prompt_files import Prompt


class Folder:
    """See `evaluation.judges`.

    Raises:
      UserError: several pictures of each prompt, or a key that can be no name.
    """

    clips = False

    def __init__(self, prompts: Sequence[Prompt], each: int) -> None:
        self._prompts = prompts
        if each != 1:
            raise UserError(f"GenAI-Bench reads one picture of each prompt, and sample.images_per_prompt is {each}")
        if other := next((prompt.key for prompt in prompts if "/" in prompt.key), None):
            raise UserError(f"GenAI-Bench calls pictures by the keys of its prompts, and {other!r} has a slash")

    def name(self, number: int) -> str:
        """See `evaluation.judges`."""
        return f"{self._prompts[number].key}.jpeg"

    def beside(self, num: int) -> Iterator[tuple[str, str]]:
        """See `evaluation.judges`."""
        return iter(())
