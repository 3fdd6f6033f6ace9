"""`--mode=encode` of captioned clips of two shapes by a Wan's autoencoder: latents and captions, stopped, resumed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.codecs.wan_vae import Codec
from flexidit_jax.common.config import load_config
from flexidit_jax.data.latents import TRAIN
from flexidit_jax.experiment.experiment import build_experiment
from flexidit_jax.jobs import encode
from flexidit_jax.runs.clips import write_clip

pytest.importorskip("av")
ROOT = Path(__file__).parents[2]
CAPTIONS = {"long": "a red apple", "short": "two dogs play", "other": "rain"}


def test_clips_are_encoded_in_bins(
    wan_pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    for name, frames in (("long", 11), ("short", 6), ("other", 9)):
        clip = np.kron(rng.integers(0, 256, (frames, 2, 2, 3)), np.ones((1, 8, 8, 1))).astype(np.uint8)
        write_clip(tmp_path / f"clips/{name}.mp4", [clip])
        (tmp_path / f"clips/{name}.txt").write_text(CAPTIONS[name])
    config = load_config(f"{ROOT / 'configs' / 'digits.py'}:smoke")
    clips = {"name": "clips", "path": str(tmp_path / "clips"), "frames": 9, "height": 16, "width": 16}
    config.dataset = {"name": "latents", "path": str(tmp_path / "kept"), "of": clips | {"bins": ((5, 16, 16),)}}
    config.codec = {"name": "wan_vae", "path": str(wan_pipeline)}
    config.text = {"name": "umt5", "path": str(wan_pipeline), "length": 10, "dtype": "float32"}
    words = {"name": "text", "features": 32, "length": 10, "null_length": 1, "drop_rate": 0.1}
    model = {"latent": (3, 2, 2, 4), "patch": 2, "width": 36, "depth": 1, "num_heads": 2, "positions": "rope"}
    config.model = {**model, "modulation": "single", "conditioner": words}
    config.train.stages = ({"patches": (2,), "steps": 2, "learning_rate": 1e-3},)
    config.sample.labels = config.report = config.evaluate = config.search = None
    config.encode = {"shard": 1, "batch": 1, "dtype": "float32"}

    whole, tried = encode.encode, []
    monkeypatch.setattr(encode, "encode", lambda *args: 0 if tried.append(args[1].name) or tried[1:] else whole(*args))
    monkeypatch.setattr(encode.SharedStop, "status", 143)
    assert encode.run(config, tmp_path / "run") == 143
    assert tried == ["train/9x16x16", "train/5x16x16"]
    monkeypatch.setattr(encode, "encode", lambda *args: tried.append(args[3]) or whole(*args))
    assert encode.run(config, tmp_path / "run") == 0
    assert tried[2:] == [[], [0]]  # what is there is not made again
    said = capsys.readouterr().out
    assert "stopped, 2 of 3 images are there" in said
    assert "dataset: 3 clips with 3 captions, none held out" in said

    experiment = build_experiment(config)
    kept, codec = experiment.dataset, Codec(str(wan_pipeline))
    assert kept.features.prompts == [CAPTIONS[name] for name in ("long", "other", "short")]
    source = kept.of.source()
    records = {kept.features.prompts[record["texts"][0]]: record for record in kept.source()}
    assert len(records) == 3
    for clip in source:
        mean, _ = codec.moments(clip["x"][None])
        record = records[clip["texts"][0]]
        assert record["mean"].shape == (1 + (len(clip["x"]) - 1) // 4, 2, 2, 4)
        np.testing.assert_allclose(record["mean"], mean[0], atol=1e-5)
        tokens = kept.augment(record, np.random.default_rng(0))["tokens"]
        wanted = experiment.text.encode([clip["texts"][0]])["tokens"][0]
        np.testing.assert_allclose(tokens, wanted, atol=1e-5)
    assert (tmp_path / "kept" / TRAIN / "5x16x16").is_dir()
