"""DINOv2's features are those of the transformers library and of the original code; both layouts of its files."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.metrics.features import weights
from flexidit_jax.metrics.features.dinov2 import MEAN, PUBLISHED, STD, Features
from flexidit_jax.metrics.features.resize import bicubic, pillow_bicubic, standardised
from flexidit_jax.models.pretrained.dinov2_layout import read_dinov2

Golden = dict[str, np.ndarray]
Draw = Callable[..., np.ndarray]
FILE = Path(__file__).parents[2] / "golden" / "dinov2_tiny.safetensors"
SIZES = {"small": (2, 64, 64), "large": (2, 256, 320)}
TOLERANCE = 1e-5
NAMES = {"hub": "scale", "hf": "size"}


@pytest.fixture
def original(tmp_path: Path) -> Callable[..., Path]:
    """The golden weights with the original code's names, and whatever else; the path of the file."""

    def write(**others: np.ndarray) -> Path:
        state, _ = read_safetensors(FILE)
        names = {
            r"embeddings\.(cls_token|mask_token)": r"\1",
            r"embeddings\.position_embeddings": "pos_embed",
            r"embeddings\.patch_embeddings\.projection": "patch_embed.proj",
            r"encoder\.layer\.": "blocks.",
            r"attention\.output\.dense": "attn.proj",
            r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
            r"layernorm\.": "norm.",
        }
        renamed = {}
        for name, array in state.items():
            for before, after in names.items():
                name = re.sub(before, after, name)
            renamed[name] = array
        for name in [name for name in renamed if ".attention.query." in name]:
            rows = [renamed.pop(name.replace("query", part)) for part in ("query", "key", "value")]
            renamed[name.replace("attention.attention.query", "attn.qkv")] = np.concatenate(rows)
        file = tmp_path / "original.safetensors"
        write_safetensors(file, renamed | others)
        return file

    return write


@pytest.mark.parametrize(("side", "positions"), [(98, "hub"), (56, "hub"), (56, "hf"), (140, "hub"), (140, "hf")])
def test_golden_tokens(dinov2_golden: Golden, images: Draw, side: int, positions: str) -> None:
    """98 is the size that the positions were learned at."""
    found = weights.read(FILE, PUBLISHED)
    model, params = found.made(read_dinov2, found.config, None, positions)
    x = standardised(images(dinov2_golden, f"x{side}", 2, side, side), MEAN, STD)
    there = dinov2_golden[f"x{side}_cls_{NAMES[positions]}"]
    np.testing.assert_allclose(jax.jit(model.apply)({"params": params}, x), there, atol=TOLERANCE)


@pytest.mark.parametrize("positions", NAMES)
@pytest.mark.parametrize(("resize", "name"), [("pillow", "pil"), ("torch", "torch")])
def test_golden_features(dinov2_golden: Golden, images: Draw, positions: str, resize: str, name: str) -> None:
    features = Features(str(FILE), resize, positions, batch=2)
    for size, shape in SIZES.items():
        there = dinov2_golden[f"{size}_{name}_cls_{NAMES[positions]}"]
        found = features.extract(images(dinov2_golden, size, *shape))
        assert tuple(found) == Features.kinds
        np.testing.assert_allclose(found["pool"], there, atol=TOLERANCE)
    said = features.protocol
    assert (said["convention"], said["resize"]) == (f"dinov2-{positions}", resize)


@pytest.mark.parametrize("size", SIZES)
def test_golden_sizes(dinov2_golden: Golden, images: Draw, size: str) -> None:
    drawn, grid = images(dinov2_golden, size, *SIZES[size]), [0, 1, 111, 222, 223]
    of_floats = np.asarray(bicubic(drawn, 224))[:, grid][:, :, grid]
    np.testing.assert_allclose(of_floats, dinov2_golden[f"{size}_torch224"], atol=1e-3)
    of_bytes = pillow_bicubic(drawn, 224, 224)[:, grid][:, :, grid]
    np.testing.assert_array_equal(of_bytes, dinov2_golden[f"{size}_pil224"])


def test_the_original_layout(original: Callable[..., Path]) -> None:
    file, images = original(), np.random.default_rng(0).integers(0, 256, (2, 30, 40, 3), dtype=np.uint8)
    with pytest.raises(UserError) as caught:
        Features(str(file))
    assert str(caught.value) == (
        f"{file}: the number of heads is not in the tensors of DINOv2, 32 wide; pass num_heads="
    )
    ours, theirs = (features.extract(images)["pool"] for features in (Features(str(file), num_heads=4), Features(FILE)))
    np.testing.assert_array_equal(ours, theirs)
    assert [Features(str(file), num_heads=heads).protocol["heads"] for heads in (4, 2)] == [4, 2]


def test_saved_weights_are_those_of_the_library(original: Callable[..., Path], tmp_path: Path) -> None:
    Features(str(original()), num_heads=4).save(tmp_path / "saved.safetensors")
    saved, there = (read_safetensors(file)[0] for file in (tmp_path / "saved.safetensors", FILE))
    del there["embeddings.mask_token"]
    assert saved.keys() == there.keys()
    assert all(np.array_equal(saved[name], there[name]) for name in there)


def test_other_networks_of_the_family_are_refused(original: Callable[..., Path]) -> None:
    gated = original(**{"blocks.0.mlp.w12.weight": np.zeros((4, 4), np.float32)})
    with pytest.raises(UserError, match=r"its MLPs are gated \(that is vitg14\); FD-DINOv2 is of vitl14"):
        Features(str(gated))
    registers = original(register_tokens=np.zeros((1, 4, 32), np.float32))
    with pytest.raises(UserError, match=r"it has registers, and FD-DINOv2 is of the network without"):
        Features(str(registers))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"num_heads": 2}, f"{FILE}: DINOv2 has 4 heads, but num_heads=2; leave that out"),
        ({"resize": "pil"}, "no resize 'pil'; did you mean 'pillow'?"),
        ({"positions": "HF"}, "no positions 'HF'; did you mean 'hf'?"),
        ({"batch": 0}, "features.batch must be positive, got 0"),
        ({"devices": 99}, f"devices must lie in 1..{jax.local_device_count()}, the devices here, got 99"),
    ],
)
def test_bad_words_are_refused(words: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        Features(str(FILE), **words)
    assert str(caught.value) == message


def test_every_product_is_of_whole_float32(precisions: Callable[..., Counter[object]]) -> None:
    found = weights.read(FILE, PUBLISHED)
    model, params = found.made(read_dinov2, found.config, None, "hub")
    made = precisions(lambda p, x: model.apply({"params": p}, x), params, jnp.zeros((1, 56, 56, 3)))
    assert made.keys() == {(jax.lax.Precision.HIGHEST,) * 2}
    assert made.total() == 1 + 2 + 3 * 8  # patches, positions, and of a block six layers and two of its attention
    assert precisions(partial(bicubic, side=224), jnp.zeros((1, 8, 8, 3), jnp.uint8)).keys() == made.keys()
