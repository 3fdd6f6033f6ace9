"""T5's tokens are those of the transformers library, whatever holds its weights; prompts; memory; refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.common.trees import flatten
from flexidit_jax.models.pretrained.t5_layout import INSTEAD, TIED
from flexidit_jax.text import t5
from flexidit_jax.text.t5 import T5, Encoder, _needed, load

Golden = dict[str, np.ndarray]
FOLDER = Path(__file__).parents[1] / "golden"
FILE, SPIECE = FOLDER / "t5_tiny.safetensors", FOLDER / "t5_tiny_spiece.model"
TOLERANCE = 5e-5
BIAS = "encoder.block.{}.layer.0.SelfAttention.relative_attention_bias.weight"


@pytest.fixture(scope="module")
def t5_golden() -> Golden:
    arrays = np.load(FOLDER / "t5_tiny.npz")
    return {name: arrays[name] for name in arrays}


@pytest.fixture(scope="module")
def tiny() -> T5:
    return load(FILE)


@pytest.fixture
def pipeline(tmp_path: Path, t5_golden: Golden) -> Path:
    """As diffusers writes one, the encoder in two shards with an index."""
    encoder, tokenizer = tmp_path / "text_encoder", tmp_path / "tokenizer"
    encoder.mkdir()
    tokenizer.mkdir()
    tensors, _ = read_safetensors(FILE)
    shards = {f"model-0000{i + 1}-of-00002.safetensors": dict([*tensors.items()][i::2]) for i in range(2)}
    for name, part in shards.items():
        write_safetensors(encoder / name, part)
    index = {"weight_map": {tensor: name for name, part in shards.items() for tensor in part}}
    (encoder / "model.safetensors.index.json").write_text(json.dumps(index))
    (encoder / "config.json").write_text(str(t5_golden["config"]))
    shutil.copy(SPIECE, tokenizer / "spiece.model")
    return tmp_path


@pytest.fixture
def changed(tmp_path: Path) -> Callable[..., Path]:
    """Writes the golden file with `change` made of its tensors, and a config."""

    def write(change: Callable[[dict], dict] = dict, config: dict | None = None) -> Path:
        file = tmp_path / "changed.safetensors"
        write_safetensors(file, change(read_safetensors(FILE)[0]), {"config": json.dumps(config or {})})
        return file

    return write


def farthest(golden: Golden, encoder: T5) -> float:
    found = np.asarray(encoder(golden["ids"], golden["mask"]))
    return np.abs(found - golden["out"])[golden["mask"].astype(bool)].max()


def test_golden(tiny: T5, t5_golden: Golden) -> None:
    assert farthest(t5_golden, tiny) < TOLERANCE
    np.testing.assert_allclose(tiny(t5_golden["ids"]), t5_golden["out_nomask"], atol=TOLERANCE)
    model = tiny.model
    assert (model.words, model.width, model.depth, model.heads, model.size, model.hidden) == (260, 32, 2, 3, 12, 64)


def test_what_is_padded_moves_nothing(tiny: T5, t5_golden: Golden) -> None:
    ids, mask, rows = t5_golden["ids"].copy(), t5_golden["mask"].astype(bool), slice(1, 2)
    ids[~mask] = 7
    whole = tiny(ids, mask)[rows, :37]
    np.testing.assert_allclose(whole, t5_golden["out"][rows, :37], atol=TOLERANCE)
    np.testing.assert_allclose(tiny(ids[rows, :37]), whole, atol=TOLERANCE)


def test_bfloat16_is_near_and_does_not_overflow(changed: Callable[..., Path], t5_golden: Golden) -> None:
    """What published weights do: a stream far past float16's 65504, which the last norm takes back."""

    def loud(state: dict) -> dict:
        return {name: array * 1e6 if "wo" in name else array for name, array in state.items()}

    near = load(FILE, "bfloat16")
    assert 1e-4 < farthest(t5_golden, near) < 0.05
    kinds = {path: leaf.dtype.name for path, leaf in flatten(near._params).items()}
    assert kinds["tokens"] == kinds["block_0/wo/kernel"] == "bfloat16"
    assert kinds["bias"] == kinds["block_0/norm1/scale"] == "float32"
    file, row = changed(loud), t5_golden["ids"][:1]
    exact, found = (np.asarray(load(file, dtype)(row)) for dtype in ("float32", "bfloat16"))
    assert np.isfinite(found).all()
    assert np.abs(found - exact).max() < 0.1


def test_whatever_holds_the_weights(
    pipeline: Path, changed: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    def tied(state: dict) -> dict:
        return {TIED if name == "shared.weight" else name: array for name, array in state.items()}

    def whole(state: dict) -> dict:
        beside = {BIAS.format(0).replace("encoder", "decoder"): np.ones((32, 3)), "lm_head.weight": np.ones((260, 32))}
        return state | beside | {TIED: state["shared.weight"]}

    expected = flatten(load(FILE)._params)
    for path in (pipeline, pipeline / "text_encoder", changed(tied), changed(whole)):
        found = flatten(load(path)._params)
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)
    assert capsys.readouterr().err == ""  # nobody misses what writes


def test_tensors_are_read_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is on its device before the next is read, so that the host never holds the whole."""
    events, opened, blocked = [], t5.open_weights, jax.block_until_ready

    def watched(files: list[Path], network: object) -> tuple[dict, dict]:
        state, metadata = opened(files, network)
        return {name: lambda name=name: events.append("read") or state[name]() for name in state}, metadata

    monkeypatch.setattr(t5, "open_weights", watched)
    monkeypatch.setattr(jax, "block_until_ready", lambda leaf: events.append("placed") or blocked(leaf))
    load(FILE)
    assert events == ["read"] * 4 + ["read", "placed"] * 21  # four tell the sizes


def test_memory_is_given_back(t5_golden: Golden) -> None:
    def live() -> int:
        return sum(array.nbytes for array in jax.live_arrays())

    before = live()
    encoder = load(FILE)
    held = encoder._params["tokens"]
    assert live() - before >= 4 * sum(array.size for array in read_safetensors(FILE)[0].values())
    encoder.free()
    assert held.is_deleted()
    assert live() == before
    with pytest.raises(UserError, match=r"^the memory of this encoder was given back; load it again$"):
        encoder(t5_golden["ids"])
    encoder.free()


def test_prompts(pipeline: Path, tiny: T5) -> None:
    encoder = Encoder(str(pipeline), length=16, dtype="float32", batch=2)
    encoder.check()
    found = encoder.encode(["A Red Cat ", "a red cat", ""])
    assert found["tokens"].shape == (3, 16, 32)
    assert found["mask"].dtype == bool
    assert found["mask"].sum(1).tolist()[1:] == [5, 1]
    np.testing.assert_array_equal(found["tokens"][0], found["tokens"][1])
    assert not found["tokens"][~found["mask"]].any()
    row = np.asarray(tiny(np.array([[1]])))
    np.testing.assert_allclose(found["tokens"][2, :1], row[0], atol=TOLERANCE)
    held = encoder._network._params["tokens"]
    encoder.free()
    assert held.is_deleted()
    np.testing.assert_array_equal(encoder.encode([""])["tokens"][0], found["tokens"][2])


def test_prompts_go_in_batches_of_one_size(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder, sizes, call = Encoder(str(FILE), str(SPIECE), 16, batch=3), [], T5.__call__
    monkeypatch.setattr(T5, "__call__", lambda network, ids, mask: sizes.append(len(ids)) or call(network, ids, mask))
    many = encoder.encode(["a", "b", "c", "d"])["tokens"]
    few = encoder.encode(["d", "b"])["tokens"]
    assert sizes == [3, 3, 2]
    np.testing.assert_allclose(few, many[[3, 1]], atol=0.01)


def test_what_is_fetched_of_a_model_at_the_hub() -> None:
    beside = ["README.md", "config.json", "spiece.model", "tf_model.h5"]
    parts = ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin", "pytorch_model.bin.index.json"]
    assert sorted(_needed([*beside, *parts])) == sorted(["config.json", "spiece.model", *parts])
    pipeline = ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/spiece.model"]
    others = ["transformer/config.json", "transformer/diffusion_pytorch_model.safetensors", "vae/config.json"]
    assert sorted(_needed([*pipeline, *others, "text_encoder/model.fp16.safetensors"])) == pipeline
    with pytest.raises(UserError, match=r"^it holds no model\.safetensors of a text encoder$"):
        _needed(others)


def test_cleaning_is_a_choice() -> None:
    lower, raw = (Encoder(str(FILE), str(SPIECE), 16, clean, "float32") for clean in ("lower", "none"))
    np.testing.assert_array_equal(lower.encode([" HELLO "])["tokens"], raw.encode(["hello"])["tokens"])
    assert np.abs(lower.encode(["HELLO"])["tokens"] - raw.encode(["HELLO"])["tokens"]).max() > 0.1
    assert lower.fingerprint() | {"clean": "none"} == raw.fingerprint()


def test_what_is_not_read_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    encoder = Encoder(str(FILE), str(SPIECE), 8)
    encoder.encode(["a photo of a red cat and two dogs", "日本語 cat", "a cat"])
    assert capsys.readouterr().err == (
        "note: more than 7 tokens, so the last words are not read: 'and two dogs' of"
        " 'a photo of a red cat and two dogs'\n"
        "note: characters that T5 does not know: '日本語' of '日本語 cat'\n"
    )


def test_a_fingerprint_knows_all_that_tokens_depend_on(changed: Callable[..., Path]) -> None:
    known = Encoder(str(FILE), str(SPIECE), 120).fingerprint()
    assert known == {"encoder": known["encoder"], "length": 120, "clean": "lower"}
    assert Encoder(str(FILE), str(SPIECE), 300).fingerprint() == known | {"length": 300}
    other = changed(lambda state: {name: array * 2 for name, array in state.items()})
    assert Encoder(str(other), str(SPIECE), 120).fingerprint()["encoder"] != known["encoder"]


def test_relatives_are_refused(changed: Callable[..., Path]) -> None:
    def umt5(state: dict) -> dict:
        return state | {BIAS.format(1): np.ones((32, 3), np.float32)}

    def first(state: dict) -> dict:
        gate = {name: array for name, array in state.items() if "wi_1" not in name}
        return {name.replace("wi_0", "wi"): array for name, array in gate.items()}

    def refusal(*made: object) -> str:
        file = changed(*made)
        with pytest.raises(UserError) as caught:
            load(file)
        return str(caught.value).removeprefix(f"{file}: ")

    own_table = f"it is a UMT5, each block of which has its own table of biases; {INSTEAD}"
    file = changed(umt5)
    with pytest.raises(UserError) as caught:
        Encoder(str(file), str(SPIECE), 16).check()
    assert str(caught.value) == f"{file}: {own_table}"
    assert refusal(dict, {"model_type": "umt5"}).startswith("not a state dict of a T5 encoder: missing encoder.block.1")
    assert refusal(first) == f"it is a T5 v1.0, whose MLPs have no gate; {INSTEAD}"
    assert refusal(dict, {"feed_forward_proj": "relu"}) == f"it is a T5 v1.0, whose MLPs have no gate; {INSTEAD}"
    assert refusal(dict, {"model_type": "mt5"}) == f"its config says model_type='mt5', not 't5'; {INSTEAD}"
    missing = f"not a state dict of a T5 encoder: missing shared.weight; {INSTEAD}"
    assert refusal(lambda state: {name: array for name, array in state.items() if name != "shared.weight"}) == missing
    said = "its config says num_heads=64, not 3 and d_kv=64, not 12 as its tensors do; it is of another model"
    assert refusal(dict, {"d_kv": 64, "num_heads": 64}) == said


def test_what_is_damaged_is_named(changed: Callable[..., Path]) -> None:
    wo = "encoder.block.1.layer.1.DenseReluDense.wo.weight"

    def without(state: dict) -> dict:
        return {name: array for name, array in state.items() if name != wo}

    damages = {
        f"not a state dict of a T5 encoder: missing {wo}": without,
        f"{wo} is [64, 32] instead of [32, 64]": lambda state: state | {wo: state[wo].T},
        f"{wo} of {{file}} holds NaN or infinity; take weights from before that happened": lambda state: (
            state | {wo: state[wo] * np.nan}
        ),
        "encoder.block.0.layer.0.SelfAttention.q.weight has 36 rows, which 5 heads do not divide": lambda state: (
            state | {BIAS.format(0): np.ones((32, 5), np.float32)}
        ),
    }
    for message, change in damages.items():
        file = changed(change)
        with pytest.raises(UserError) as caught:
            load(file)
        assert str(caught.value).removeprefix(f"{file}: ") == message.format(file=file)


def test_what_is_missing_is_named_with_its_place(pipeline: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path / "nothing")
    assert str(caught.value) == (
        f"the weights of the text encoder are not at {tmp_path}/nothing; put the text_encoder folder of its pipeline"
        " (huggingface.co: config.json and model files; of a PixArt or a Wan 11 GB in bfloat16) into"
        f" {tmp_path}/nothing, or set path to where they are"
    )
    encoder = Encoder(str(pipeline))
    (pipeline / "tokenizer" / "spiece.model").unlink()
    with pytest.raises(UserError) as caught:
        encoder.check()
    assert str(caught.value) == (
        f"no spiece.model in {pipeline}/text_encoder nor in {pipeline}/tokenizer; put that of a T5 v1.1 there"
        " (0.8 MB), or set text.tokenizer to it"
    )
    shard = pipeline / "text_encoder" / "model-00002-of-00002.safetensors"
    shard.unlink()
    with pytest.raises(UserError, match=r"text_encoder lacks model-00002-of-00002\.safetensors of its 2 shards; "):
        encoder.check()


def test_a_tokenizer_of_another_model_is_refused_before_weights_are_read(changed: Callable[..., Path]) -> None:
    for words in (259, 389):
        file = changed(lambda state, words=words: state | {"shared.weight": np.ones((words, 32), np.float32)})
        encoder = Encoder(str(file), str(SPIECE), 16)
        for call in (encoder.check, lambda encoder=encoder: encoder.encode(["a cat"])):
            with pytest.raises(UserError) as caught:
                call()
            assert str(caught.value) == (
                f"{SPIECE} is the tokenizer of another model: it has 260 pieces, and the encoder {words} rows"
            )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dtype": "float16"}, "text.dtype='float16' overflows in T5; 'bfloat16' has room, in as much memory"),
        ({"dtype": "int8"}, "text.dtype must be 'float32' or 'bfloat16', got 'int8'"),
        ({"clean": "lowr"}, "no text.clean 'lowr'; did you mean 'lower'?"),
        ({"length": 0}, "text.length must be positive, got 0"),
    ],
)
def test_words_that_there_are_not(words: dict, message: str) -> None:
    with pytest.raises(UserError) as caught:
        Encoder(**words)
    assert str(caught.value) == message


def test_ids_that_there_are_not(tiny: T5) -> None:
    ids = np.array([[5, 1, 0]])
    for bad, mask, message in (
        (ids[0], None, "ids and mask must be whole numbers [B, L], got int64 (3,) and (3,)"),
        (ids, np.ones((1, 2)), "ids and mask must be whole numbers [B, L], got int64 (1, 3) and (1, 2)"),
        (ids + 259, None, "ids lie in 259..264, and the encoder has 0..259"),
        (ids, np.zeros((1, 3)), "row 0 of mask has no token; an empty text still has its end"),
    ):
        with pytest.raises(UserError) as caught:
            tiny(bad, mask)
        assert str(caught.value) == message
    for prompts in ("a cat", [], [None]):
        with pytest.raises(UserError, match=r"^prompts must be a list of texts, and at least one$"):
            Encoder(str(FILE), str(SPIECE), 16).encode(prompts)
    with pytest.raises(UserError, match=r"^text\.length is open, and no model is there to say it; PixArt-alpha's is"):
        Encoder(str(FILE), str(SPIECE)).encode(["a cat"])


def test_features_of_another_width_are_refused_before_weights_are_read() -> None:
    Encoder(str(FILE), str(SPIECE)).check(32)
    with pytest.raises(UserError) as caught:
        Encoder(str(FILE), str(SPIECE)).check(4096)
    assert str(caught.value) == (
        f"{FILE} makes features of 32 channels, and the model reads 4096; set text.path to the encoder that it was"
        " trained with, of PixArt T5 v1.1 xxl (4096)"
    )


DEVICES = """
import sys
import numpy as np
from flexidit_jax.common.data_parallel import local_mesh
from flexidit_jax.text.t5 import load
ids = np.arange(32).reshape(2, 16) % 200
split = load(sys.argv[1], mesh=local_mesh(2))
block, whole = split._params["block_0"], load(sys.argv[1])
print([block[name]["kernel"].addressable_shards[0].data.shape for name in ("query", "out", "wi_0", "wo")])
print(split._params["bias"].addressable_shards[0].data.shape, np.abs(split(ids) - np.asarray(whole(ids))).max() < 1e-5)
"""


@pytest.mark.slow
def test_kernels_are_split_over_devices(on_devices: Callable[..., str]) -> None:
    shapes, equal = on_devices(2, "-c", DEVICES, FILE).splitlines()
    assert shapes == "[(32, 18), (18, 32), (32, 32), (32, 32)]"
    assert equal == "(32, 3) True"
