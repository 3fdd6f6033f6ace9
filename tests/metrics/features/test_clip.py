"""CLIP's features are those of the transformers library, images cut as its processor does; texts; refusals."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.metrics.features import weights
from flexidit_jax.metrics.features.clip import MEAN, PUBLISHED, STD, Features, fitted
from flexidit_jax.metrics.features.resize import standardised
from flexidit_jax.models.pretrained.clip import Clip
from flexidit_jax.models.pretrained.clip_layout import read_clip
from flexidit_jax.models.pretrained.clip_tokenizer import Tokenizer

Golden = dict[str, np.ndarray]
FOLDER = Path(__file__).parents[2] / "golden"
FILE = FOLDER / "clip_tiny.safetensors"
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def golden_clip() -> tuple[Clip, dict]:
    found = weights.read(FILE, PUBLISHED)
    return found.made(read_clip, found.config, 3)


@pytest.fixture(scope="module")
def tower(golden_clip: tuple[Clip, dict]) -> Callable[..., np.ndarray]:
    """Runs "image" or "words" of three inputs."""
    model, params = golden_clip
    run = jax.jit(lambda x, method: model.apply({"params": params}, x, method=method), static_argnums=1)
    return lambda method, x: np.asarray(run(np.resize(x, (3, *x.shape[1:])), method))[: len(x)]


@pytest.fixture
def model_folder(tmp_path: Path, clip_golden: Golden) -> Path:
    """As the transformers library writes one: weights, config, and a tokenizer of the 120 ids that these have."""
    shutil.copy(FILE, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(str(clip_golden["config"]))
    vocabulary = json.loads((FOLDER / "clip_tiny_tokenizer" / "vocab.json").read_text())
    few = {piece: i % 118 for piece, i in vocabulary.items()} | {"<|startoftext|>": 118, "<|endoftext|>": 119}
    (tmp_path / "vocab.json").write_text(json.dumps(few))
    shutil.copy(FOLDER / "clip_tiny_tokenizer" / "merges.txt", tmp_path)
    return tmp_path


def test_golden_towers(tower: Callable[..., np.ndarray], clip_golden: Golden) -> None:
    image = tower("image", clip_golden["pixel_values"].transpose(0, 2, 3, 1))
    np.testing.assert_allclose(image, clip_golden["image_features"], atol=TOLERANCE)
    text = tower("words", clip_golden["ids"].astype(np.int32))
    np.testing.assert_allclose(text, clip_golden["text_features"], atol=TOLERANCE)


def test_golden_image(clip_golden: Golden) -> None:
    cut = fitted(clip_golden["image_uint8"][None], 32, "after")
    found = standardised(cut[0], MEAN, STD).transpose(2, 0, 1)
    np.testing.assert_allclose(found, clip_golden["image_preprocessed"], atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(45, 70), (70, 45)])
def test_a_square_is_cut_before_or_after(height: int, width: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    top, left = (height - 45) // 2, (width - 45) // 2
    square = Image.fromarray(image[top : top + 45, left : left + 45]).resize((32, 32), Image.Resampling.BICUBIC)
    before, after = (fitted(image[None], 32, crop) for crop in ("before", "after"))
    np.testing.assert_array_equal(before[0], np.asarray(square))
    assert after.shape == (1, 32, 32, 3)
    assert not np.array_equal(before, after)
    np.testing.assert_array_equal(*(fitted(image[None, :45, :45], 32, crop) for crop in ("before", "after")))


def test_a_folder_of_the_library(tower: Callable[..., np.ndarray], model_folder: Path, clip_golden: Golden) -> None:
    features = Features(str(model_folder), batch=2)
    there = tower("image", clip_golden["image_preprocessed"].transpose(1, 2, 0)[None])
    found = features.extract(clip_golden["image_uint8"][None])
    np.testing.assert_allclose(found["pool"], there, atol=TOLERANCE)
    assert tuple(found) == Features.kinds
    prompts = ["a photo of a cat", "Two dogs", "it's 12 o'clock"]
    ids, lost = Tokenizer.of(model_folder)(prompts, 16)
    assert lost.tolist() == [0, 0, 0]
    np.testing.assert_allclose(features.text(prompts), tower("words", ids), atol=TOLERANCE)
    assert features.protocol["convention"] == "clip-ViT-24/8@32"


def test_another_tokenizer_is_known(model_folder: Path) -> None:
    before = Features(str(model_folder)).tokenizer_sha256
    assert Features(str(model_folder)).tokenizer_sha256 == before
    merges = (model_folder / "merges.txt").read_text().splitlines()
    (model_folder / "merges.txt").write_text("\n".join(merges[:-1]))
    assert Features(str(model_folder)).tokenizer_sha256 != before


def test_long_texts_are_told(model_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Features(str(model_folder), batch=2).text(["word " * 30, "a cat"])
    assert capsys.readouterr().err == "note: 1 of 2 texts are longer than 14 tokens, and their ends are not read\n"


def test_what_the_config_says_is_obeyed(model_folder: Path) -> None:
    config = json.loads((model_folder / "config.json").read_text())
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    before = Features(str(model_folder), batch=2)
    usual = before.extract(images)["pool"]
    config["vision_config"]["hidden_act"] = "gelu"
    (model_folder / "config.json").write_text(json.dumps(config))
    after = Features(str(model_folder), batch=2)
    exact = after.extract(images)["pool"]
    assert before.protocol["image tower"] == "3 heads quick_gelu eps 1e-05"
    assert after.protocol == before.protocol | {"image tower": "3 heads gelu eps 1e-05"}
    assert 1e-4 < np.abs(exact - usual).max() < 0.1
    config["vision_config"]["hidden_act"] = "gelu_fast"
    (model_folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"says hidden_act='gelu_fast', which is not known; did you mean 'gelu'\?$"):
        Features(str(model_folder))


def test_saved_weights_are_the_same(model_folder: Path, tmp_path: Path) -> None:
    Features(str(model_folder)).save(tmp_path / "one" / "clip.safetensors")
    saved, metadata = read_safetensors(tmp_path / "one" / "clip.safetensors")
    assert saved.keys() == read_safetensors(FILE)[0].keys()
    assert json.loads(metadata["config"])["vision_config"]["num_attention_heads"] == 3
    features = Features(str(tmp_path / "one"))
    assert features.protocol == Features(str(model_folder)).protocol
    with pytest.raises(UserError) as caught:
        features.text(["a cat"])
    assert str(caught.value) == (
        f"{tmp_path / 'one'} has no readable merges.txt; put that and vocab.json of the model there"
    )


def test_refusals(tmp_path: Path, model_folder: Path) -> None:
    state, _ = read_safetensors(FILE)
    del state["text_model.final_layer_norm.bias"]
    write_safetensors(tmp_path / "less.safetensors", state)
    less, dino, none = tmp_path / "less.safetensors", FOLDER / "dinov2_tiny.safetensors", tmp_path / "no"
    for words, message in (
        ({"path": FILE}, "the number of heads is not in the tensors of CLIP's image tower, 24 wide; pass num_heads="),
        ({"path": FILE, "num_heads": 5}, "num_heads=5 is not an integer that divides the width 24 of CLIP's image tow"),
        ({"path": model_folder, "num_heads": 4}, "CLIP's image tower has 3 heads, but num_heads=4; leave that out"),
        ({"path": less, "num_heads": 3}, "not a state dict of CLIP: missing text_model.final_layer_norm.bias"),
        ({"path": dino}, "not a state dict of CLIP: missing vision_model.embeddings.patch_embedding.weight,"),
        ({"path": none}, f"huggingface.co: model.safetensors, config.json, vocab.json, merges.txt) into {none}"),
        ({"crop": "centre"}, "no crop 'centre'; known: after, before"),
    ):
        with pytest.raises(UserError) as caught:
            Features(**{key: str(value) if key == "path" else value for key, value in words.items()})
        assert message in str(caught.value)
    for prompts in ("a cat", [], [1]):
        with pytest.raises(UserError, match=r"^prompts must be a list of texts, and at least one$"):
            Features(str(model_folder)).text(prompts)


def test_every_product_is_of_whole_float32(
    golden_clip: tuple[Clip, dict], precisions: Callable[..., Counter[object]]
) -> None:
    model, params = golden_clip
    for method, x, others in (("image", jnp.zeros((1, 32, 32, 3)), 2), ("words", jnp.zeros((1, 16), jnp.int32), 1)):
        made = precisions(lambda p, x, m=method: model.apply({"params": p}, x, method=m), params, x)
        assert made == {(jax.lax.Precision.HIGHEST,) * 2: 2 * 8 + others}
