"""Shared, expensive things: a persistent compilation cache, the golden tensors, one trained smoke run."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

ROOT = Path(__file__).parents[1]
# before jax is imported, and inherited by the few subprocess tests
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".cache" / "jax"))
os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks the hub, nor what anybody has of it
os.environ["HF_HUB_CACHE"] = str(ROOT / ".cache" / "hub")
# tests compile much and run little: half the compile time, the same mathematics
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.02")

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

import flexidit_jax as fd  # noqa: E402
from flexidit_jax.common import notes  # noqa: E402
from flexidit_jax.common.tensor_files import read_safetensors, write_safetensors  # noqa: E402
from flexidit_jax.main import main  # noqa: E402
from flexidit_jax.metrics.features import clip, inception  # noqa: E402
from flexidit_jax.models.pretrained.autoencoder_kl import VAE  # noqa: E402
from flexidit_jax.models.pretrained.autoencoder_kl_layout import write_vae  # noqa: E402
from flexidit_jax.text.t5 import Encoder  # noqa: E402

GOLDEN = Path(__file__).parent / "golden"
SMOKE = f"--config={ROOT / 'configs' / 'digits.py'}:smoke"


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: the garbage collector need not look at them, and seldom at the rest."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(autouse=True)
def nothing_noted() -> None:
    """What one test was told is news to the next."""
    notes.said.clear()


@pytest.fixture(scope="session")
def golden() -> dict[str, np.ndarray]:
    """The reference tensors, images as [B, H, W, C]."""
    arrays = np.load(GOLDEN / "dit_tiny.npz")

    def channels_last(array: np.ndarray) -> np.ndarray:
        return np.moveaxis(array, -3, -1) if array.ndim >= 4 else array

    return {key: channels_last(arrays[key]) for key in arrays}


@pytest.fixture(scope="session")
def dit() -> fd.FlexiDiT:
    """The golden DiT: width 64, depth 3, latent 8x8x4, patch 2."""
    return fd.load(GOLDEN / "dit_tiny.safetensors")


@pytest.fixture(scope="session")
def flex(dit: fd.FlexiDiT) -> fd.FlexiDiT:
    """The golden DiT with modes 2 and 4."""
    return dit.flexify((2, 4))


@pytest.fixture(scope="session")
def texts() -> fd.FlexiDiT:
    """The golden PixArt with modes 2 and 4, made to read the golden T5; latent 16x16x4, texts of 16 tokens."""
    model = fd.load(GOLDEN / "pixart_tiny.safetensors").flexify((2, 4))
    conditioner = model.model.conditioner.clone(features=32, length=16, null_length=16, null_mask="caption")
    rng, trunk = np.random.default_rng(0), model.params["trunk"]
    fc1 = {**trunk["conditioner"]["fc1"], "kernel": rng.normal(size=(32, 36)).astype(np.float32) / 6}
    reads = {**trunk["conditioner"], "fc1": fc1, "null": rng.normal(size=(16, 32)).astype(np.float32)}
    params = {**model.params, "trunk": {**trunk, "conditioner": reads}}
    encoder = Encoder(str(GOLDEN / "t5_tiny.safetensors"), str(GOLDEN / "t5_tiny_spiece.model"), dtype="float32")
    return dataclasses.replace(model, model=model.model.clone(conditioner=conditioner), params=params, text=encoder)


@pytest.fixture(scope="session")
def spoilt() -> Callable[..., fd.FlexiDiT]:
    """A model with NaN in the row of a class, the last being that of none: its samples come to nothing."""

    def spoil(model: fd.FlexiDiT, label: int) -> fd.FlexiDiT:
        trunk = model.params["trunk"]
        table = np.array(trunk["conditioner"]["table"])
        table[label] = np.nan
        trunk = {**trunk, "conditioner": {"table": jax.numpy.asarray(table)}}
        return dataclasses.replace(model, params={**model.params, "trunk": trunk})

    return spoil


@pytest.fixture(scope="session")
def vae_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow VAE of the published layout, random weights."""
    folder = tmp_path_factory.mktemp("vae")
    model = VAE(widths=(4, 4, 8, 8), resnets=1, groups=2)
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32) / 5, shapes)
    write_safetensors(folder / "diffusion_pytorch_model.safetensors", write_vae(params))
    (folder / "config.json").write_text(json.dumps({"norm_num_groups": 2, "scaling_factor": 0.18215}))
    return folder


@pytest.fixture(scope="session")
def pixart_pipeline(tmp_path_factory: pytest.TempPathFactory, vae_folder: Path) -> Path:
    """A whole pipeline of a PixArt, the golden one reading the features of the golden T5. Do not write into it."""
    root = tmp_path_factory.mktemp("pixart")
    state, metadata = read_safetensors(GOLDEN / "pixart_tiny.safetensors")
    wide = np.random.default_rng(0).normal(size=(36, 32)).astype(np.float32) / 6
    state["caption_projection.linear_1.weight"] = wide
    t5 = GOLDEN / "t5_tiny.safetensors"
    configs = {
        "transformer": json.loads(metadata["config"]) | {"caption_channels": 32},
        "text_encoder": json.loads(str(np.load(GOLDEN / "t5_tiny.npz")["config"])),
        "vae": json.loads((vae_folder / "config.json").read_text()) | {"scaling_factor": 0.13025},
    }
    for part, config in configs.items():
        (root / part).mkdir()
        (root / part / "config.json").write_text(json.dumps(config))
    write_safetensors(root / "transformer" / "diffusion_pytorch_model.safetensors", state)
    shutil.copy(vae_folder / "diffusion_pytorch_model.safetensors", root / "vae")
    shutil.copy(t5, root / "text_encoder" / "model.safetensors")
    (root / "tokenizer").mkdir()
    shutil.copy(GOLDEN / "t5_tiny_spiece.model", root / "tokenizer" / "spiece.model")
    index = {"_class_name": "PixArtSigmaPipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
    (root / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="session")
def wan_pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole pipeline of a Wan, the golden one reading the features of the golden UMT5. Do not write into it."""
    root = tmp_path_factory.mktemp("wan")
    state, metadata = read_safetensors(GOLDEN / "wan_tiny.safetensors")
    wide = np.random.default_rng(0).normal(size=(40, 32)).astype(np.float32) / 6
    state["condition_embedder.text_embedder.linear_1.weight"] = wide
    config = {"_class_name": "WanTransformer3DModel", **json.loads(metadata["config"]), "text_dim": 32}
    parts = {
        "transformer/diffusion_pytorch_model.safetensors": (state, config),
        **{
            file: (read[0], json.loads(read[1]["config"]))
            for file, read in (
                ("vae/diffusion_pytorch_model.safetensors", read_safetensors(GOLDEN / "wan_vae_tiny.safetensors")),
                ("text_encoder/model.safetensors", read_safetensors(GOLDEN / "umt5_tiny.safetensors")),
            )
        },
    }
    for file, (tensors, config) in parts.items():
        (root / file).parent.mkdir()
        write_safetensors(root / file, tensors)
        (root / file).with_name("config.json").write_text(json.dumps(config))
    for folder in ("tokenizer", "scheduler"):
        (root / folder).mkdir()
    shutil.copy(GOLDEN / "t5_tiny_spiece.model", root / "tokenizer" / "spiece.model")
    (root / "scheduler" / "scheduler_config.json").write_text('{"flow_shift": 5.0}')
    index = {"_class_name": "WanPipeline", "text_encoder": ["transformers", "UMT5EncoderModel"]}
    (root / "model_index.json").write_text(json.dumps(index))
    return root


@pytest.fixture(scope="session")
def smoke_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished `digits.py:smoke`, report included. Do not write into it."""
    workdir = tmp_path_factory.mktemp("runs") / "smoke"
    assert main([SMOKE, f"--workdir={workdir}"]) == 0
    return workdir


@pytest.fixture
def pixel_features(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Takes the places of Inception and CLIP: features are pixels, those of a text its length. Counts what it sees.

    `stop` is the number of images with which SIGTERM comes.
    """
    counted = SimpleNamespace(images=0, texts=0, prompts=[], stop=None)

    class Pixels:
        kinds, metrics = inception.Features.kinds, inception.Features.metrics

        def __init__(self, path: str = "./weights", convention: str = "adm", batch: int = 32) -> None:
            self.protocol = {"convention": convention, "weights_sha256": "67" * 32}

        def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
            counted.images += len(images)
            if counted.images == counted.stop:
                signal.raise_signal(signal.SIGTERM)
            flat = images.reshape(len(images), -1).astype(np.float32) / 255
            return {"pool": flat[:, :6], "spatial": flat[:, 6:10], "logits": flat[:, 10:15]}

    class Texts(Pixels):
        kinds, metrics = clip.Features.kinds, clip.Features.metrics

        def extract(self, images: np.ndarray) -> dict[str, np.ndarray]:
            return {"pool": super().extract(images)["pool"]}

        tokenizer_sha256 = "68" * 32

        def text(self, prompts: list[str]) -> np.ndarray:
            counted.texts += len(prompts)
            counted.prompts.append([*prompts])
            return np.float32([[len(prompt), *range(5)] for prompt in prompts])

    for module, features in ((inception, Pixels), (clip, Texts)):
        features.__module__ = module.__name__
        monkeypatch.setattr(module, "Features", features)
    return counted


@pytest.fixture(scope="session")
def on_devices() -> Callable[..., str]:
    """Runs `python words` where jax sees `count` devices; returns what it printed."""

    def run(count: int, *words: object) -> str:
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={count}"
        child = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=ROOT,
            env={**os.environ, "XLA_FLAGS": flags, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert child.returncode == 0, child.stderr[-3000:]
        assert "full rematerialization" not in child.stderr  # XLA's word for gathering what it cannot reshard
        return child.stdout

    return run


@pytest.fixture(scope="session")
def held() -> str:
    """A program: the command, which says HELD at step 3 of training on the stream named first, and reads a line.

    Of several processes process 0 is not held.
    """
    return """
import sys
from flexidit_jax.training.monitor.metric_log import MetricLog
from flexidit_jax.main import main

says, *words = sys.argv[1:]

def hold(self, number, *rest):
    if number == 3 and "--process=0" not in words:
        print("HELD", file=getattr(sys, says), flush=True)
        sys.stdin.readline()
    add(self, number, *rest)

add, MetricLog.add = MetricLog.add, hold
sys.exit(main(words))
"""


@pytest.fixture
def quiet(tmp_path: Path) -> str:
    """The smoke config without its report."""
    file = tmp_path / "quiet.py"
    file.write_text(
        "import runpy\n\n\n"
        "def get_config():\n"
        f"    config = runpy.run_path({str(ROOT / 'configs' / 'digits.py')!r})['get_config']('smoke')\n"
        "    config.report = None\n"
        "    return config\n"
    )
    return f"--config={file}"
