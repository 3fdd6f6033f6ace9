"""Seconds per 1,000 images of every feature extractor, beside torch-fidelity where it is installed.

    python benchmarks/evaluation.py [EXTRACTOR ...] [--images=32] [--batch=16] [--size=256] [--rounds=3]
    python benchmarks/evaluation.py metrics [--samples=5000] [--width=2048]

Weights are random, of the published names and shapes. A round is one call of each side, in turn; the median counts.
The memory is the most that the process has held, so run an extractor alone to know its own. Afterwards other numbers of
images are extracted, and the programs that they compile are counted: there should be none.

`metrics` times each metric once on random features, as many of the reference as of the samples.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common import build
from flexidit_jax.common.compilations import Compilations
from flexidit_jax.common.tensor_files import write_safetensors
from flexidit_jax.metrics.score import Images, metric_of
from flexidit_jax.models.pretrained import clip_layout, dinov2_layout, inception_layout
from flexidit_jax.models.pretrained.clip import Clip, Text, Vision
from flexidit_jax.models.pretrained.dinov2 import DinoV2
from flexidit_jax.models.pretrained.published import named_shapes, shapes_of

DINOV2 = DinoV2(width=1024, depth=24, heads=16, hidden=4096, patch=14, grid=37)
CLIP = Clip(Vision(1024, 24, 16, 4096, 768, patch=14, grid=16), Text(768, 12, 12, 3072, 768))
Run = Callable[[np.ndarray], np.ndarray]


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    """Of the published tensors of an extractor, by name."""
    if name == "inception":
        return inception_layout.published_shapes()
    image = jnp.zeros((1, 224, 224, 3))
    if name == "dinov2":
        return named_shapes(shapes_of(DINOV2, image), dinov2_layout.published_name)
    return named_shapes(shapes_of(CLIP, image, jnp.zeros((1, 77), jnp.int32)), clip_layout.published_name)


def random_state(name: str) -> dict[str, np.ndarray]:
    """Weights that keep the size of activations."""
    rng, state = np.random.default_rng(0), {}
    for tensor, shape in shapes(name).items():
        gain = np.float32(np.sqrt(2 / np.prod(shape[1:]))) if len(shape) > 1 else np.float32(0.1)
        state[tensor] = gain * rng.standard_normal(shape, np.float32)
        if tensor.endswith("running_var") or (len(shape) == 1 and tensor.endswith("weight")):
            state[tensor] = 1 + np.abs(state[tensor])
    return state


def torch_fidelity(name: str, state: dict[str, np.ndarray], folder: Path, batch: int) -> Run | None:
    """torch-fidelity's extractor of this name, where there is one."""
    if name != "inception":
        return None
    try:
        import torch
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        return None
    torch.save({key: torch.from_numpy(value) for key, value in state.items()}, folder / "weights.pth")
    words = {"feature_extractor_weights_path": str(folder / "weights.pth")}
    network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"], **words)

    def run(images: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
        with torch.no_grad():
            return np.concatenate([network(part)[0].numpy() for part in pixels.split(batch)])

    return run


def seconds(runs: dict[str, Run], images: np.ndarray, rounds: int) -> dict[str, float]:
    """Medians per 1,000 images; the first round, which compiles, does not count."""
    taken: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds + 1):
        for name, run in runs.items():
            start = time.perf_counter()
            run(images)
            taken[name].append((time.perf_counter() - start) / len(images) * 1000)
    return {name: statistics.median(times[1:]) for name, times in taken.items()}


def compiled_for_others(run: Run, images: np.ndarray, batch: int) -> int:
    """Programs that one image, a batch, and one more than a batch compile after all images were extracted."""
    with Compilations() as compiled:
        for count in (1, batch, batch + 1):
            run(images[:count])
    return compiled.count


def metrics(count: int, width: int) -> None:
    """Prints the seconds of every metric on random features."""
    rng = np.random.default_rng(0)

    def drawn() -> Images:
        features = {"pool": np.abs(rng.standard_normal((count, width), np.float32))}
        features |= {"spatial": rng.standard_normal((count, 2023), np.float32)}
        features |= {"logits": rng.standard_normal((count, 1008), np.float32), "prompts": features["pool"]}
        return Images(features, labels=np.arange(count) % 1000)

    samples, reference = drawn(), drawn()
    for name in build.names("flexidit_jax.metrics", "Metric"):
        start = time.perf_counter()
        found = metric_of({"name": name}, "metrics").scores(samples, reference, "inception")
        told = ", ".join(score.metric for score in found)
        print(f"{told}: {time.perf_counter() - start:.1f} s for {count:,} samples and reference images", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("extractors", nargs="*", default=["inception", "dinov2", "clip"], metavar="EXTRACTOR")
    defaults = {"images": 32, "batch": 16, "size": 256, "rounds": 3, "samples": 5000, "width": 2048}
    for flag, default in defaults.items():
        parser.add_argument(f"--{flag}", type=int, default=default)
    asked = parser.parse_args()
    if asked.extractors == ["metrics"]:
        return metrics(asked.samples, asked.width)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (asked.images, asked.size, asked.size, 3), dtype=np.uint8)
    print(f"{asked.images} images of {asked.size}x{asked.size}, batch {asked.batch}, {jax.devices()}")
    for name in asked.extractors:
        with tempfile.TemporaryDirectory() as folder:
            state, file = random_state(name), Path(folder) / "weights.safetensors"
            write_safetensors(file, state)
            make = build.find("flexidit_jax.metrics.features", name, "Features")
            extractor = make(str(file), batch=asked.batch)
            runs: dict[str, Run] = {"ours": lambda images, of=extractor: of.extract(images)["pool"]}
            if (other := torch_fidelity(name, state, Path(folder), asked.batch)) is not None:
                runs["torch-fidelity"] = other
            del state
            taken = seconds(runs, images, asked.rounds)
            more = compiled_for_others(runs["ours"], images, asked.batch)
        told = ", ".join(f"{who} {value:.1f} s" for who, value in taken.items())
        if other is not None:
            ours, theirs = (run(images) for run in runs.values())
            told += f"; pool differs by {np.abs(ours - theirs).max() / np.abs(theirs).max():.1e} of its largest value"
        held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        told += f"; {held:.1f} GiB held at most; {more} programs for other numbers of images"
        print(f"{name}: per 1,000 images {told}", flush=True)


if __name__ == "__main__":
    main()
