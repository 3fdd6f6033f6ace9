"""Names at the hub: what is a path and what a name, the cache of old and new uploads, and what is fetched."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import jax
import numpy as np
import pytest
from huggingface_hub import constants

import flexidit_jax as fd
from flexidit_jax.codecs.sd_vae import Codec
from flexidit_jax.common import hub
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.hub import located, pinned
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors
from flexidit_jax.convert.read_model import files_of_model, read_model
from flexidit_jax.convert.said import Said

COMMIT, OLDER = "0123456789abcdef0123456789abcdef01234567", "89abcdef0123456789abcdef0123456789abcdef"
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, which is not asked."""
    folder = tmp_path / "hub"
    folder.mkdir()
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return folder


def upload(cache: Path, model: str, source: Path, commit: str = COMMIT, revision: str = "main") -> Path:
    """`source` as the hub's library caches it: content in blobs, a tree of links to them for the commit."""
    storage = cache / f"models--{model.replace('/', '--')}"
    snapshot = storage / "snapshots" / commit
    (storage / "blobs").mkdir(parents=True, exist_ok=True)
    for file in sorted(file for file in source.rglob("*") if file.is_file()):
        blob = storage / "blobs" / hashlib.sha256(file.read_bytes()).hexdigest()
        blob.write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(source)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(blob)
    (storage / "refs").mkdir(exist_ok=True)
    (storage / "refs" / revision).write_text(commit)
    return snapshot


@pytest.fixture
def pipeline(dit: fd.FlexiDiT, vae_folder: Path, tmp_path: Path) -> Path:
    """A whole pipeline as it is uploaded today."""
    folder = tmp_path / "pipeline"
    dit.export(folder / "transformer")
    (folder / "vae").mkdir()
    for file in vae_folder.iterdir():
        (folder / "vae" / file.name).write_bytes(file.read_bytes())
    (folder / "model_index.json").write_text("{}")
    return folder


def older(pipeline: Path) -> None:
    """Makes it what older versions wrote: another class, shards of half precision."""
    file = pipeline / "transformer" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"_class_name": "Transformer2DModel"}))
    weights = file.with_name(WEIGHTS)
    tensors, _ = read_safetensors(weights)
    weights.unlink()
    names = sorted(tensors)
    shards = {
        name: f"diffusion_pytorch_model.fp16-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)
    }
    for shard in set(shards.values()):
        held = {name: tensors[name].astype(np.float16) for name in names if shards[name] == shard}
        write_safetensors(weights.with_name(shard), held)
    weights.with_name(f"{WEIGHTS}.index.fp16.json").write_text(json.dumps({"weight_map": shards}))


# ---------------------------------------------------------------- What the cache holds


@pytest.mark.parametrize("older_upload", [False, True])
@pytest.mark.parametrize("name", ["facebook/DiT", "hf:facebook/DiT", f"facebook/DiT@{COMMIT}"])
def test_a_pipeline_is_read_by_its_name(
    cache: Path, pipeline: Path, dit: fd.FlexiDiT, older_upload: bool, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    if older_upload:
        older(pipeline)
    snapshot = upload(cache, "facebook/DiT", pipeline)
    flex = fd.load(name)
    tolerance = 1e-3 if older_upload else 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=tolerance), flex.params, dit.params)
    assert flex.codec.path == str(snapshot / "vae")
    flex.codec.check()
    said = capsys.readouterr().err
    full = f"hf:facebook/DiT@{COMMIT}"
    assert (f"note: {name} is {full}\n" in said) == (name != full)
    fd.load(name)
    assert " is hf:" not in capsys.readouterr().err  # once


def test_a_revision_is_another_model(cache: Path, dit: fd.FlexiDiT, flex: fd.FlexiDiT, tmp_path: Path) -> None:
    for model, commit, revision in ((dit, COMMIT, "main"), (flex, OLDER, "two-modes")):
        model.save(tmp_path / revision)
        upload(cache, "me/mine", tmp_path / revision, commit, revision)
    assert fd.load("me/mine").patches == dit.patches
    assert fd.load("me/mine@two-modes").patches == fd.load(f"hf:me/mine@{OLDER}").patches == flex.patches


def test_a_lone_weight_file_is_read(cache: Path, dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path / "up" / "DiT.safetensors")
    upload(cache, "me/lone", tmp_path / "up")
    assert fd.load("me/lone").patches == dit.patches
    with pytest.raises(UserError, match=r"^me/lone does not .* it holds no diffusion_pytorch_model of a VAE$"):
        Codec("me/lone").check()


def test_one_file_of_many_is_read(cache: Path, dit: fd.FlexiDiT, flex: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.export(tmp_path / "up" / "S.safetensors")
    flex.export(tmp_path / "up" / "deep" / "weak.safetensors", patch=4)
    upload(cache, "me/many", tmp_path / "up")
    (tmp_path / "up" / "deep").rename(tmp_path / "elsewhere")
    assert fd.load("hf:me/many/S.safetensors").patches == ((1, 2, 2),)
    weak = f"hf:me/many/deep/weak.safetensors@{COMMIT}"
    assert fd.load(weak, num_heads=4).patches == ((1, 4, 4),)
    assert pinned("hf:me/many/S.safetensors") == f"hf:me/many/S.safetensors@{COMMIT}"
    assert pinned(weak) == weak
    with pytest.raises(UserError, match=r"of what the cache has of it: it holds no T\.safetensors"):
        fd.load("hf:me/many/T.safetensors")
    with pytest.raises(UserError, match=r"^me/many/S\.safetensors does not exist; give a run's folder"):
        fd.load("me/many/S.safetensors")


@pytest.mark.parametrize("inside", [".", "vae"])
def test_a_codec_is_read_by_its_name(cache: Path, vae_folder: Path, tmp_path: Path, inside: str) -> None:
    target = tmp_path / "up" / inside
    target.mkdir(parents=True)
    for file in vae_folder.iterdir():
        (target / file.name).write_bytes(file.read_bytes())
    upload(cache, "stabilityai/sd-vae-ft-ema", tmp_path / "up")
    codec = Codec("stabilityai/sd-vae-ft-ema")
    codec.check()
    assert codec.fingerprint() == Codec(str(vae_folder)).fingerprint()
    jax.tree.map(np.testing.assert_array_equal, codec._loaded[1], Codec(str(vae_folder))._loaded[1])


# ---------------------------------------------------------------- A path or a name


def test_an_existing_path_wins_unless_forced(cache: Path, dit: fd.FlexiDiT, flex: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.save(tmp_path / "up")
    upload(cache, "me/both", tmp_path / "up")
    assert fd.load("me/both").patches == dit.patches
    flex.save(tmp_path / "me" / "both")  # and the working directory is its parent
    assert fd.load("me/both").patches == flex.patches
    assert fd.load("hf:me/both").patches == dit.patches
    with pytest.raises(UserError, match=r"me/lost does not exist; give a run's folder"):
        fd.load(Path("me/lost"))  # a Path is no name


@pytest.mark.parametrize("text", ["lost.safetensors", "a/b/c", "/a/b", "./a/b", "../a", "~/lost", ".x/b"])
def test_what_can_be_no_name_is_a_path(cache: Path, text: str) -> None:
    assert located(text, files_of_model) == Path(text).expanduser()
    with pytest.raises(UserError, match="does not exist; give a run's folder, a saved model or a DiT weight file"):
        fd.load(text)


def test_the_default_of_the_codec_is_a_path(cache: Path) -> None:
    with pytest.raises(UserError, match=r"^the VAE's weights weights/sd-vae-ft-ema/.*\.safetensors do not exist; put"):
        Codec().check()


def test_a_name_that_cannot_be_read_has_two_readings(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    both = "me/lost does not exist here, and as a model of the hub it "
    offline = "cannot be read (HF_HUB_OFFLINE is set), nor does the cache hold all of it"
    for text, message in (("me/lost", both + offline), ("hf:me/lost", f"hf:me/lost {offline}")):
        with pytest.raises(UserError) as caught:
            fd.load(text)
        assert str(caught.value) == message
    for text in ("hf:a/..", "hf:o/-x"):
        with pytest.raises(UserError, match=r"names no model of the hub, whose names have other letters$"):
            fd.load(text)
        with pytest.raises(UserError, match=r"does not exist; give a run's folder"):
            fd.load(text.removeprefix("hf:"))
    for text in ("hf:lost", "hf:/a/b", "hf:"):
        with pytest.raises(UserError) as caught:
            fd.load(text)
        assert str(caught.value) == f"{text} names no model of the hub; write hf:owner/model or hf:owner/model@revision"
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for text, reading in (("me/lost", both), ("hf:me/lost", "hf:me/lost ")):
        with pytest.raises(UserError) as caught:
            fd.load(text)
        assert str(caught.value) == f"{reading}wants huggingface_hub (pip install -e '.[hub]')"


def test_what_a_cache_lacks_is_said(cache: Path, dit: fd.FlexiDiT, tmp_path: Path) -> None:
    for name in ("a", "b"):
        dit.export(tmp_path / "up" / f"{name}.safetensors")
    upload(cache, "me/two", tmp_path / "up")
    with pytest.raises(UserError, match=r"of what the cache has of it: it holds .*; name one file, as hf:owner/model/"):
        fd.load("me/two")
    (cache / "models--me--two" / "refs" / "main").write_bytes(b"\xff../../..")
    with pytest.raises(UserError, match="nor does the cache hold all of it"):
        fd.load("me/two@main")


def test_a_model_that_is_half_in_the_cache(cache: Path, pipeline: Path) -> None:
    snapshot = upload(cache, "me/half", pipeline)
    (snapshot / "transformer" / WEIGHTS).resolve().unlink()  # a dangling link, as an interrupted download leaves
    with pytest.raises(UserError, match="of what the cache has of it: it holds no transformer"):
        fd.load("me/half")


# ---------------------------------------------------------------- What is fetched


@pytest.fixture
def online(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], list]:
    """Has the hub hold a folder; returns the list that fills with what is fetched."""

    def holds(source: Path) -> list:
        fetched: list = []
        sizes = {
            file.relative_to(source).as_posix(): file.stat().st_size for file in source.rglob("*") if file.is_file()
        }

        def info(self: object, model: str, revision: str, timeout: float, files_metadata: bool) -> SimpleNamespace:
            siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
            return SimpleNamespace(sha=COMMIT, siblings=siblings)

        def snapshot(model: str, revision: str, allow_patterns: Sequence[str]) -> str:
            fetched.append((model, revision, sorted(allow_patterns)))
            snapshot = source.with_name(COMMIT)
            if not snapshot.exists():
                snapshot.symlink_to(source)
            return str(snapshot)

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(huggingface_hub.HfApi, "model_info", info)
        monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
        return fetched

    return holds


def test_only_what_is_needed_is_fetched(
    online: Callable, pipeline: Path, dit: fd.FlexiDiT, capsys: pytest.CaptureFixture[str]
) -> None:
    (pipeline / "transformer" / "diffusion_pytorch_model.bin").write_bytes(bytes(3_000_000))
    (pipeline / "transformer" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"half as much")
    (pipeline / "text_encoder").mkdir()
    (pipeline / "text_encoder" / "model.safetensors").write_bytes(b"of something else")
    fetched = online(pipeline)
    assert fd.load("facebook/DiT").patches == dit.patches
    files = ["model_index.json", "transformer/config.json", f"transformer/{WEIGHTS}"]
    files += ["vae/config.json", f"vae/{WEIGHTS}"]
    assert fetched == [("facebook/DiT", "main", files)]  # by its name, which the cache then knows without the hub
    size = sum((pipeline / file).stat().st_size for file in files) / 1e6
    assert capsys.readouterr().err.splitlines()[0] == (
        f"note: facebook/DiT at the hub: {size:.1f} MB in 5 files, fetched unless the cache has them"
    )
    assert pinned("facebook/DiT") == f"hf:facebook/DiT@{COMMIT}"
    Codec("facebook/DiT@v2").check()
    assert fetched[1:] == [("facebook/DiT", "v2", files[3:])]


def test_of_a_pipeline_of_texts_the_encoder_is_fetched_when_it_is_wanted(
    online: Callable, pixart_pipeline: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(pixart_pipeline, tmp_path / "up")
    fetched = online(tmp_path / "up")
    name = f"hf:PixArt/Sigma@{COMMIT}"
    config, params = read_model("PixArt/Sigma", Said(), None, lambda: None)
    assert config["text"] == {"name": "t5", "path": name} and config["codec"]["scale"] == 0.13025
    assert config["model"]["conditioner"]["length"] == 300 and "null" not in params["trunk"]["conditioner"]
    fd.load("PixArt/Sigma", null="none")
    capsys.readouterr()
    fd.load("PixArt/Sigma")
    wanted = f"note: nothing stands for no text yet; null='empty' fetches the text encoder of {name} for that\n"
    assert capsys.readouterr().err == wanted
    [(_, _, files)] = fetched
    assert {file.partition("/")[0] for file in files} == {"model_index.json", "transformer", "vae"}
    flex = fd.load("PixArt/Sigma", null="empty")
    assert flex.model.conditioner.null_length == 1
    encoder = ["text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/spiece.model"]
    assert fetched[1:] == [("PixArt/Sigma", COMMIT, encoder)]
    assert fd.load("PixArt/Sigma", text=name).model.conditioner.null_length == 1  # named by itself


@pytest.mark.parametrize(
    ("names", "needed"),
    [
        (["config.json", WEIGHTS, "README.md"], ["config.json", WEIGHTS]),
        (["config.json", "model.safetensors"], ["config.json", "model.safetensors"]),
        (["DiT.pt", "README.md"], ["DiT.pt"]),
        (["DiT.pt", "config.json"], ["config.json", "DiT.pt"]),
    ],
)
def test_files_of_each_layout(names: list[str], needed: list[str]) -> None:
    assert files_of_model(names) == needed


@pytest.mark.parametrize("names", [[], ["a.pt", "b.pt"], ["unet/config.json", f"unet/{WEIGHTS}"], ["config.json"]])
def test_what_holds_no_model_is_not_fetched(online: Callable, tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / "up" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "up" / name).write_bytes(b"")
    (tmp_path / "up").mkdir(exist_ok=True)
    fetched = online(tmp_path / "up")
    with pytest.raises(UserError, match=r"^me/odd: it holds no transformer of diffusers, no saved model"):
        fd.load("me/odd")
    with pytest.raises(UserError, match=r"^me/odd: it holds no diffusion_pytorch_model of a VAE"):
        Codec("me/odd").check()
    if "a.pt" in names:
        with pytest.raises(UserError, match=r"but [ab]\.pt, [ab]\.pt; name one file, as hf:owner/model/FILE$"):
            fd.load("me/odd")
        with pytest.raises(UserError, match=r"^hf:me/odd/aa\.pt: it holds no aa\.pt; did you mean 'a\.pt'"):
            fd.load("hf:me/odd/aa.pt")
    assert fetched == []


def test_a_hub_that_cannot_be_reached_leaves_the_cache(
    cache: Path, pipeline: Path, dit: fd.FlexiDiT, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise ConnectionError("no route to host\nand more lines")

    upload(cache, "me/kept", pipeline)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", refuse)
    assert fd.load("me/kept").patches == dit.patches
    assert "note: the hub is not asked for me/kept (no route to host); its cache has it\n" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"cannot be read \(no route to host\), nor does the cache hold all of it$"):
        fd.load("me/lost")
    for file in (cache / "models--me--kept" / "snapshots" / COMMIT / "transformer").iterdir():
        file.unlink()  # an interrupted download of the second of two shards
    older(pipeline)
    upload(cache, "me/kept", pipeline)
    [second] = (cache / "models--me--kept" / "snapshots" / COMMIT / "transformer").glob("*-00002-of-00002.safetensors")
    second.unlink()
    monkeypatch.setattr(hub, "_fetched", {})
    for name in ("me/kept", f"me/kept@{COMMIT}"):
        with pytest.raises(UserError, match="nor does the cache hold all of it"):
            fd.load(name)


# ---------------------------------------------------------------- What is recorded


def test_a_name_is_recorded_with_its_commit(cache: Path, pipeline: Path) -> None:
    upload(cache, "me/known", pipeline)
    before = f"hf:me/known@{OLDER}"
    assert pinned("me/known") == "me/known"  # not read yet
    assert pinned("me/known", before) == before  # nor now, but by an earlier start
    assert pinned("me/known@main", before) == "me/known@main"
    assert pinned("me/known", "hf:me/other@" + OLDER) == "me/known"
    assert pinned("me/known", "me/known") == "me/known"
    fd.load("me/known")
    assert pinned("me/known", before) == f"hf:me/known@{COMMIT}"
    assert pinned("weights/x.pt", before) == "weights/x.pt"
    (cache.parent / "me" / "known").mkdir(parents=True)
    assert pinned("me/known", before) == "me/known"  # which is a path by now
