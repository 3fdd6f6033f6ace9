"""One network out of what files hold: prefixes, averages, foreign subtrees, shards and variants."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from flexidit_jax.common import weights
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import open_tensors, write_safetensors
from flexidit_jax.common.weights import Network, full_set, read_weights, weight_files, write_weights

NETWORK = Network("Net", "embed.weight", ("embed", "blocks"))
STATE = {"embed.weight": np.float32([[1, 2]]), "blocks.0.bias": np.float32([3]), "positions": np.float32([4, 5])}


def under(prefix: str, shift: float = 0.0) -> dict[str, np.ndarray]:
    return {prefix + name: value + np.float32(shift) for name, value in STATE.items()}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def read(file: Path, tensors: Mapping[str, np.ndarray], which: str | None = None) -> dict[str, np.ndarray]:
    write_safetensors(file, dict(tensors))
    return read_weights([file], NETWORK, which)[0]


def assert_is_state(found: Mapping[str, np.ndarray], shift: float = 0.0) -> None:
    assert found.keys() == STATE.keys()
    for name, value in STATE.items():
        np.testing.assert_array_equal(found[name], value + shift)


# ---------------------------------------------------------------- Prefixes


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "state_dict.model.", "a.module._orig_mod.b."])
def test_whatever_stands_before_all_names_is_taken_off(
    file: Path, prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert_is_state(read(file, {**under(prefix), "optimizer.0.exp_avg_of_step": np.float32([7])} if prefix else STATE))
    assert capsys.readouterr().err == ""  # what lies beside the network is nobody's loss


def test_a_name_that_only_ends_like_the_mark_is_no_network(file: Path) -> None:
    found = read(file, STATE | {"blocks.preembed.weight": np.float32([0])})
    assert found.keys() == {*STATE, "blocks.preembed.weight"}
    other = {"preembed.weight": np.float32([0]), "preblocks.0.bias": np.float32([1])}
    assert read(file, other).keys() == other.keys()


def test_a_file_of_something_else_comes_back_as_it_is(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = {"conv.weight": np.float32([1]), "bias": np.float32([2])}
    assert read(file, other).keys() == other.keys()
    assert capsys.readouterr().err == ""


def test_metadata_is_that_of_the_first_file_that_has_some(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.safetensors", "b.safetensors", "c.safetensors")]
    for path, name, metadata in zip(files, STATE, (None, {"num_heads": "4"}, {"num_heads": "5"}), strict=True):
        write_safetensors(path, {name: STATE[name]}, metadata)
    found, metadata = read_weights(files, NETWORK)
    assert_is_state(found)
    assert metadata == {"num_heads": "4"}


# ---------------------------------------------------------------- Averages


@pytest.mark.parametrize(
    ("raw", "average"),
    [("model.", "ema."), ("", "ema."), ("model.", "ema.module."), ("state_dict.net.", "state_dict.net_ema."),
     ("state_dict.", "state_dict_ema."), ("model.module.", "averaged_model.")],
)  # fmt: skip
def test_the_average_is_taken_where_there_is_one(
    file: Path, raw: str, average: str, capsys: pytest.CaptureFixture[str]
) -> None:
    both = under(raw, 1) | under(average)
    assert_is_state(read(file, both))
    assert capsys.readouterr().err == (
        f"note: {file} holds raw and averaged weights; the averaged ones ({average[:-1]}) are taken\n"
    )
    assert_is_state(read(file, both, "raw"), 1)
    assert_is_state(read(file, both, "ema"))
    assert_is_state(read(file, both, average[:-1]))
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("prefix", ["schema.", "demand.", "gamma_swap.", "net."])
def test_a_word_that_only_holds_the_letters_is_no_average(file: Path, prefix: str) -> None:
    assert_is_state(read(file, under(prefix), "raw"))
    with pytest.raises(UserError, match="and weights='ema' is not one of these; name one as weights="):
        read(file, under(prefix), "ema")


def test_two_averages_are_a_choice(file: Path) -> None:
    several = under("ema_slow.", 1) | under("ema_fast.", 2) | under("model.")
    with pytest.raises(UserError) as caught:
        read(file, several)
    assert str(caught.value) == (
        f"{file} holds weights under ema_fast, ema_slow, model; name one as weights="
    )  # fmt: skip
    assert_is_state(read(file, several, "ema_slow"), 1)
    assert_is_state(read(file, several, "raw"))
    with pytest.raises(UserError, match="weights='ema_mid' is not one of these"):
        read(file, several, "ema_mid")


def test_an_average_by_other_names_is_said_to_be_left(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_is_state(read(file, under("model.") | {"model_ema.embedweight": np.float32([[9, 9]])}))
    assert capsys.readouterr().err == (
        f"note: model_ema of {file} is an average by names that are not read; model is taken\n"
    )


# ---------------------------------------------------------------- Foreign subtrees


def test_whole_foreign_subtrees_are_left_out_and_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extra = {"projectors.0.0.weight": np.ones((2, 2)), "projectors.0.0.bias": np.ones(2), "head.out": np.ones(1)}
    assert_is_state(read(file, under("module.") | {f"module.{name}": value for name, value in extra.items()}))
    assert capsys.readouterr().err == f"note: head, projectors of {file} is no part of the Net, and not used\n"


@pytest.mark.parametrize("name", ["blocks.0.gate", "embed.norm.weight", "mask_token"])
def test_what_is_in_the_network_stays_for_its_layout_to_refuse(file: Path, name: str) -> None:
    assert read(file, STATE | {name: np.float32([0])}).keys() == {*STATE, name}


def test_a_network_within_a_foreign_subtree_is_not_the_one(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_is_state(read(file, STATE | under("teacher.", 1)))
    assert_is_state(read(file, STATE | under("teacher.", 1), "teacher"), 1)
    capsys.readouterr()


# ---------------------------------------------------------------- Values


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_values_that_are_not_finite_are_refused_by_name(file: Path, bad: float, dtype: type) -> None:
    state = {name: value.astype(dtype) for name, value in under("ema.").items()}
    state["ema.blocks.0.bias"][0] = bad
    with pytest.raises(UserError) as caught:
        read(file, state)
    assert str(caught.value) == (
        f"ema.blocks.0.bias of {file} holds NaN or infinity; take weights from before that happened"
    )
    state["other.x"] = state.pop("ema.blocks.0.bias")  # nobody reads that one
    assert "blocks.0.bias" not in read(file, state)


def test_eight_bit_floats_are_read(file: Path) -> None:
    values = np.arange(-4, 4).reshape(2, 4)
    for kind, dtype in (("F8_E4M3", ml_dtypes.float8_e4m3fn), ("F8_E5M2", ml_dtypes.float8_e5m2)):
        data = [array.astype(dtype).tobytes() for array in (values, -values)]
        names = ("embed.weight", "blocks.0.weight")
        words = {"dtype": kind, "shape": [2, 4]}
        places = {name: words | {"data_offsets": [8 * i, 8 * i + 8]} for i, name in enumerate(names)}
        header = json.dumps(places).encode()
        header += b" " * (-len(header) % 8)
        file.write_bytes(len(header).to_bytes(8, "little") + header + b"".join(data))
        found = read_weights([file], NETWORK)[0]
        for name, expected in zip(names, (values, -values), strict=True):
            np.testing.assert_array_equal(found[name].astype(np.float32), expected)


# ---------------------------------------------------------------- What is no weight file


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".ckpt", ".bin", ""])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
         "is a git-lfs pointer, not the file it points to; fetch that with: git lfs pull"),
        ("<!DOCTYPE html><html></html>",
         "is a web page, such as a refused download leaves; download the file itself again"),
        ("\n  <html>", "is a web page, such as a refused download leaves; download the file itself again"),
    ],
)  # fmt: skip
def test_what_a_download_left_instead_is_named(tmp_path: Path, ending: str, content: str, message: str) -> None:
    path = tmp_path / f"weights{ending}"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        open_tensors(path)
    assert str(caught.value) == f"{path} {message}"


def test_the_content_decides_not_the_ending(tmp_path: Path) -> None:
    for ending in (".bin", ".pt", ".weights", ""):
        write_safetensors(tmp_path / f"odd{ending}", STATE)
        assert_is_state(read_weights([tmp_path / f"odd{ending}"], NETWORK)[0])
    path = tmp_path / "notes.txt"
    path.write_text("not weights at all")
    with pytest.raises(UserError, match=r"notes\.txt is no weight file; a \.safetensors file would do"):
        open_tensors(path)


def test_a_header_as_long_as_a_sign_of_html_is_safetensors(file: Path) -> None:
    for length in range(56, 72):  # one of these headers begins with "<", its length's first byte
        header = json.dumps({"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(length)
        file.write_bytes(len(header).to_bytes(8, "little") + header + b"\1")
        assert list(open_tensors(file)[0]) == ["a"]


# ---------------------------------------------------------------- Sets of files


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], []),
        (["w.safetensors", "w.bin", "w.fp16.safetensors"], ["w.safetensors"]),
        (["w.bin", "w.fp16.safetensors"], ["w.bin"]),
        (["w.fp16.bin", "w.fp16.safetensors"], ["w.fp16.safetensors"]),
        (["w.fp16.bin", "w.bin"], ["w.bin"]),
        (["w.safetensors", "w-00001-of-00002.safetensors"], ["w.safetensors"]),
        (
            ["w-00002-of-00002.safetensors", "w-00001-of-00002.safetensors", "w.safetensors.index.json", "w.bin"],
            ["w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors", "w.safetensors.index.json"],
        ),
        (
            ["w.safetensors.index.fp16.json", "w.fp16-00001-of-00001.safetensors", "w.fp16.bin"],
            ["w.fp16-00001-of-00001.safetensors", "w.safetensors.index.fp16.json"],
        ),
        (["w.bin.index.json", "w-00001-of-00001.bin"], ["w-00001-of-00001.bin", "w.bin.index.json"]),
        (["other.safetensors", "w.txt", "ww.safetensors", "w.safetensors.bak"], []),
    ],
)
def test_the_set_that_is_taken(names: list[str], chosen: list[str]) -> None:
    assert full_set(names, "w") == chosen
    assert full_set(reversed(names), "w") == chosen


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    for shard, name in zip(("a", "b", "c"), STATE, strict=True):
        write_safetensors(tmp_path / f"{shard}.safetensors", {name: STATE[name]})
    write_safetensors(tmp_path / "w-00001-of-00001.safetensors", {"stale": np.float32([0])})
    index = tmp_path / "w.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict(zip(STATE, ("a.safetensors", "b.safetensors", "c.safetensors")))}))
    assert_is_state(read_weights(weight_files(tmp_path, "w"), NETWORK)[0])
    for odd in ("../a.safetensors", "/a.safetensors", "a.txt", 3):
        index.write_text(json.dumps({"weight_map": {"x": odd}}))
        with pytest.raises(UserError, match=r"index\.json names files that are not weights beside it"):
            weight_files(tmp_path, "w")
    index.write_text("[]")
    with pytest.raises(UserError, match="names files that are not weights beside it"):
        weight_files(tmp_path, "w")


def test_a_variant_is_said_to_be_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = {name: value.astype(np.float16) for name, value in STATE.items()}
    write_safetensors(tmp_path / "w.fp16.safetensors", half)
    assert_is_state(read_weights(weight_files(tmp_path, "w"), NETWORK)[0])
    assert capsys.readouterr().err == f"note: {tmp_path} holds weights of kind fp16 only; these are read\n"
    write_safetensors(tmp_path / "w.safetensors", STATE)
    assert weight_files(tmp_path, "w") == [tmp_path / "w.safetensors"]
    assert capsys.readouterr().err == ""


def test_files_behind_links_are_read(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    write_safetensors(tmp_path / "blobs" / "0a1b", STATE)
    (tmp_path / "snapshot" / "w.safetensors").symlink_to("../blobs/0a1b")
    assert_is_state(read_weights(weight_files(tmp_path / "snapshot", "w"), NETWORK)[0])


# ---------------------------------------------------------------- Sets that are written


def test_a_large_set_is_written_in_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each as full as it may be, in order; a set replaces another, and nothing else."""
    (tmp_path / "w.fp16.safetensors").touch()
    tensors = {name: np.full(2, i, np.float32) for i, name in enumerate("dcba")}
    tensors["e"] = np.arange(9, dtype=np.float32)
    expected = {name: array.tobytes() for name, array in tensors.items()}

    def written(most: int) -> dict[str, set[str]]:
        monkeypatch.setattr(weights, "SHARD", most)
        write_weights(tmp_path, "w", tensors, {"format": "pt"})
        files = weight_files(tmp_path, "w")
        opened = {file.name: open_tensors(file) for file in files}
        assert all(metadata == {"format": "pt"} for _, metadata in opened.values())
        found = {name: read() for there, _ in opened.values() for name, read in there.items()}
        assert {name: array.tobytes() for name, array in found.items()} == expected
        left = {file.name for file in tmp_path.iterdir()} - {"w.fp16.safetensors", "w.safetensors.index.json"}
        assert left == opened.keys()
        return {name: set(there) for name, (there, _) in opened.items()}

    assert written(16) == {
        "w-00001-of-00003.safetensors": {"d", "c"},
        "w-00002-of-00003.safetensors": {"b", "a"},
        "w-00003-of-00003.safetensors": {"e"},
    }
    index = json.loads((tmp_path / "w.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 68} and index["weight_map"]["a"] == "w-00002-of-00003.safetensors"
    assert list(written(32)) == ["w-00001-of-00002.safetensors", "w-00002-of-00002.safetensors"]
    assert list(written(68)) == ["w.safetensors"]
    assert not (tmp_path / "w.safetensors.index.json").exists()
    assert len(written(67)) == 2


def test_a_set_that_cannot_be_written_leaves_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "SHARD", 8)
    write_weights(tmp_path, "w", STATE)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    save, left = weights.save_tensors, iter((True, True, False))

    def full(*args: object) -> None:
        if not next(left):
            raise OSError("no space left on the device")
        save(*args)

    monkeypatch.setattr(weights, "save_tensors", full)
    with pytest.raises(OSError, match="no space"):
        write_weights(tmp_path, "w", {name: array + 1 for name, array in STATE.items()})
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# ---------------------------------------------------------------- What stands beside a network


@pytest.mark.parametrize("moment", ["exp_avg", "exp_avg_sq", "momentum"])
def test_an_optimizers_state_is_no_network(file: Path, moment: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_is_state(read(file, under("model.") | under(f"optimizer.{moment}.", 1)))
    assert_is_state(read(file, under("model.") | under(f"opt.state.{moment}.", 1), "raw"))
    assert capsys.readouterr().err == ""


def test_a_count_of_what_was_averaged_is_no_average(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_is_state(read(file, under("module.") | {"n_averaged": np.float32([3])}))
    assert "average" not in capsys.readouterr().err


def test_what_stands_beside_a_prefix_is_named(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = {"state.loss.scale": np.ones(1), "first_stage.conv.weight": np.ones(1), "optimizer.0.exp_avg": np.ones(1)}
    assert_is_state(read(file, under("state.model.") | beside))
    assert capsys.readouterr().err == f"note: first_stage, state.loss of {file} is no part of the Net, and not used\n"


def test_a_network_within_is_said_to_be_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_is_state(read(file, STATE | under("teacher.", 1)))
    assert capsys.readouterr().err == f"note: {file} holds another network under teacher; no prefix is taken\n"


@pytest.mark.parametrize("dtype", [np.int32, np.bool_])
def test_weights_that_are_no_floats_are_refused_by_name(file: Path, dtype: type) -> None:
    with pytest.raises(UserError) as caught:
        read(file, STATE | {"blocks.0.bias": np.ones(1, dtype)})
    assert str(caught.value) == f"blocks.0.bias of {file} is {np.dtype(dtype)}, and no floating-point weights"


def test_an_index_of_odd_values_is_refused(tmp_path: Path) -> None:
    index = tmp_path / "w.safetensors.index.json"
    for odd in ({"a": 3, "b": "a.safetensors"}, {"a": None, "b": "a.safetensors"}, {"a": ["a.safetensors"]}):
        index.write_text(json.dumps({"weight_map": odd}))
        with pytest.raises(UserError, match=r"index\.json names files that are not weights beside it"):
            weight_files(tmp_path, "w")
