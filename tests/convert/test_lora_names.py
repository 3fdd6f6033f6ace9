"""Which layers a LoRA may change, and whatever they are called."""

from __future__ import annotations

from pathlib import Path

import flexidit_jax as fd
from flexidit_jax.common.trees import flatten
from flexidit_jax.convert.lora_names import DIT, WAN, layers_of, places, spellings

GOLDEN = Path(__file__).parents[1] / "golden"


def trunk(path: Path, **words: int) -> dict:
    return flatten(fd.load(path, **words).params["trunk"])


def test_layers_of_a_wan(wan_pipeline: Path) -> None:
    leaves = trunk(wan_pipeline / "transformer")
    found = places(leaves)
    assert layers_of(leaves) is WAN and len(found) == 2 * 10 + 5
    assert found["blocks.1.attn1.to_v"] == ("blocks/attention/qkv/kernel", (1,), 2, 3)
    assert found["blocks.0.attn2.to_out.0"] == ("blocks/cross_attention/proj/kernel", (0,), 0, 1)
    assert found["blocks.0.ffn.net.0.proj"] == ("blocks/mlp/fc1/kernel", (0,), 0, 1)
    assert found["condition_embedder.time_proj"] == ("projection/blocks/kernel", (), 0, 1)
    for name in ("blocks.0.self_attn.q", "blocks_0_self_attn_q", "blocks.0.attn1.to_q", "blocks_0_attn1_to_q"):
        assert spellings(found, WAN)[name] == "blocks.0.attn1.to_q"
    called = spellings(found, WAN)
    assert (
        called["blocks_1_ffn_2"] == "blocks.1.ffn.net.2"
        and called["blocks.1.cross_attn.o"] == "blocks.1.attn2.to_out.0"
    )
    assert called["time_projection.1"] == called["time_projection_1"] == "condition_embedder.time_proj"


def test_layers_of_others() -> None:
    leaves = trunk(GOLDEN / "pixart_tiny.safetensors")
    found = places(leaves)
    assert layers_of(leaves) is DIT
    assert found["transformer_blocks.0.ff.net.2"] == ("blocks/mlp/fc2/kernel", (0,), 0, 1)
    assert "transformer_blocks.0.norm1.linear" not in found and "adaln_single.linear" in found
    assert spellings(found, DIT)["transformer_blocks_1_attn2_to_k"] == "transformer_blocks.1.attn2.to_k"
    classes = places(trunk(GOLDEN / "dit_tiny.safetensors"))
    assert "transformer_blocks.0.norm1.linear" in classes and "transformer_blocks.0.attn2.to_k" not in classes
