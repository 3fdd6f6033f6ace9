"""Folders that other judges read: where each picture lies, and what can be no such folder."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.evaluation.judge_folder import judge_folder, judges
from flexidit_jax.text.prompt_files import Prompt

PICTURE, CLIP = (16, 16, 3), (5, 16, 16, 3)
COLOURS = [Prompt(f"p{i}", "evaluation_metadata", f"{i:05d}", {"tag": "colors", "prompt": f"p{i}"}) for i in range(3)]


def names(judge: str, prompts: Sequence[Prompt], each: int, image: Sequence[int] = PICTURE) -> list[str]:
    num = each * len(prompts)
    folder = judge_folder(judge, prompts, each, num, image)
    return [folder.name(number) for number in range(num)]


def refused(judge: str, prompts: Sequence[Prompt], each: int, num: int = 1, image: Sequence[int] = PICTURE) -> str:
    with pytest.raises(UserError) as caught:
        judge_folder(judge, prompts, each, num, image)
    return str(caught.value)


def test_all_judges_have_a_name() -> None:
    assert judges() == ["genai_bench", "geneval", "hpsv2", "vbench"]


def test_geneval() -> None:
    assert names("geneval", COLOURS, 2) == [f"{p:05d}/samples/{i:04d}.png" for p in range(3) for i in range(2)]
    beside = list(judge_folder("geneval", COLOURS, 2, 3, PICTURE).beside(3))  # a part: the third has no pictures yet
    assert [name for name, _ in beside] == ["00000/metadata.jsonl", "00001/metadata.jsonl"]
    assert json.loads(beside[1][1]) == COLOURS[1].line
    assert refused("geneval", [Prompt("a", "a", "00000")], 1) == (
        "prompt 0 has no tag, which GenEval reads; --prompts names its evaluation_metadata.jsonl"
    )


def test_hpsv2() -> None:
    prompts = [Prompt("a", style, f"{i:05d}") for style in ("anime", "photo") for i in range(2)]
    assert names("hpsv2", prompts, 1) == ["anime/00000.jpg", "anime/00001.jpg", "photo/00000.jpg", "photo/00001.jpg"]
    assert refused("hpsv2", prompts, 2) == (
        "HPS v2 reads one picture of each prompt, and sample.images_per_prompt is 2"
    )
    assert refused("hpsv2", [*prompts, Prompt("a", "drawbench", "00000")], 1) == (
        "HPS v2 has lists of anime, concept-art, paintings, photo, and these prompts are of drawbench; --prompts names"
        " its folder of such .json files, or one of them"
    )


def test_genai_bench() -> None:
    prompts = [Prompt("a", "genai_image", key) for key in ("00000", "00017")]
    assert names("genai_bench", prompts, 1) == ["00000.jpeg", "00017.jpeg"]
    assert refused("genai_bench", prompts, 3).startswith("GenAI-Bench reads one picture of each prompt")
    assert refused("genai_bench", [Prompt("a", "g", "../x")], 1) == (
        "GenAI-Bench calls pictures by the keys of its prompts, and '../x' has a slash"
    )
    for key in ("", "\ud83d", "a\0b", "x" * 247):  # which would be too long while it is written
        message = f"picture 0 would be called {f'{key}.jpeg'!r}, which is no name of a file"
        assert refused("genai_bench", [Prompt("a", "g", key)], 1) == f"generate.files='genai_bench': {message}"
    assert names("genai_bench", [Prompt("a", "g", "x" * 246)], 1) == ["x" * 246 + ".jpeg"]


def test_vbench() -> None:
    pytest.importorskip("av")
    prompts = [Prompt("A person, running", "all", "00000"), Prompt("b.", "all", "00001")]
    assert names("vbench", prompts, 2, CLIP) == [f"{prompt.text}-{i}.mp4" for prompt in prompts for i in range(2)]
    assert refused("vbench", prompts, 1) == "generate.files='vbench' is of clips, and this model draws pictures"
    assert refused("vbench", [Prompt("a/b", "all", "00000")], 1, 1, CLIP) == (
        "prompt 0 has a slash, and VBench calls clips by their prompts; leave it out"
    )
    assert refused("vbench", [*prompts, prompts[0]], 1, 3, CLIP) == (
        "generate.files='vbench': pictures 0 and 2 would both be 'A person, running-0.mp4'; leave one prompt out"
    )
    assert refused("vbench", [Prompt("x" * 300, "all", "00000")], 1, 1, CLIP).endswith("which is no name of a file")
    assert refused("vbench", prompts, 1, 1, (5, 15, 16, 3)).startswith("an MP4 has even sides")


def test_what_is_no_folder_of_a_judge() -> None:
    assert refused("geneval", (), 1) == (
        "generate.files='geneval' wants the judge's own file of prompts; --prompts names it"
    )
    assert refused("geneval", COLOURS, 2, 7) == (
        "generate.files='geneval' has places for 6 pictures, 2 of each prompt, and --num is 7"
    )
    assert refused("geneval", COLOURS, 2, 6, CLIP) == (
        "generate.files='geneval' is of pictures, and this model draws clips"
    )
