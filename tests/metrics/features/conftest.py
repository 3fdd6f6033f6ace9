"""Golden values of the extractors: weights and images are drawn from their seeds, see tests/golden/README.md."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.common.tensor_files import write_safetensors
from flexidit_jax.models.pretrained.inception_layout import published_shapes

GOLDEN = Path(__file__).parents[2] / "golden"
Golden = dict[str, np.ndarray]


def _generator(seed: int, key: str) -> np.random.Generator:
    return np.random.default_rng([seed, zlib.crc32(key.encode())])


@pytest.fixture(scope="session")
def images() -> Callable[..., np.ndarray]:
    """Draws the images [n, h, w, 3] of a name, and checks that they are those of the golden file."""

    def draw(golden: Golden, name: str, n: int, h: int, w: int) -> np.ndarray:
        rng, block = _generator(int(golden["seed"]), name), max(h // 8, 1)
        coarse = rng.integers(0, 256, (n, -(-h // block), -(-w // block), 3))
        coarse = coarse.repeat(block, axis=1).repeat(block, axis=2)[:, :h, :w]
        drawn = np.clip(coarse + rng.integers(-24, 25, (n, h, w, 3)), 0, 255).astype(np.uint8)
        assert zlib.crc32(drawn.tobytes()) == golden[f"{name}_crc"]
        return drawn

    return draw


@pytest.fixture(scope="session")
def precisions() -> Callable[..., Counter[object]]:
    """How many products a function makes in which precision of their operands, wherever they are in its program."""

    def of(jaxpr: jax.extend.core.Jaxpr) -> Counter[object]:
        found = Counter()
        for eqn in jaxpr.eqns:
            if eqn.primitive.name in ("conv_general_dilated", "dot_general"):
                found[eqn.params["precision"]] += 1
            for below in jax.tree.leaves([*eqn.params.values()], is_leaf=lambda x: hasattr(x, "jaxpr")):
                found += of(below.jaxpr) if hasattr(below, "jaxpr") else Counter()
        return found

    return lambda function, *args: of(jax.make_jaxpr(function)(*args).jaxpr)


@pytest.fixture(scope="session")
def inception_golden() -> Golden:
    return dict(np.load(GOLDEN / "inception.npz"))


@pytest.fixture(scope="session")
def dinov2_golden() -> Golden:
    return dict(np.load(GOLDEN / "dinov2_tiny.npz"))


@pytest.fixture(scope="session")
def clip_golden() -> Golden:
    return dict(np.load(GOLDEN / "clip_tiny.npz"))


@pytest.fixture(scope="session")
def inception_state(inception_golden: Golden) -> dict[str, np.ndarray]:
    """The 472 tensors that the golden values were made with."""
    state = {}
    for name, shape in published_shapes().items():
        drawn = _generator(int(inception_golden["seed"]), name).standard_normal(shape)
        if name.endswith("conv.weight"):
            drawn *= np.sqrt(2 / np.prod(shape[1:]))
        elif name == "fc.weight":
            drawn *= 1.5 / np.sqrt(2048)
        elif name.endswith("bn.weight"):
            drawn = 1 + 0.1 * drawn
        elif name.endswith(("bn.bias", "running_mean")):
            drawn *= 0.1
        elif name.endswith("running_var"):
            drawn = 0.75 + 0.25 * drawn**2
        state[name] = drawn.astype(np.float32)
    for key, crc in inception_golden.items():
        if key.startswith("weight_crc/"):
            assert zlib.crc32(state[key.removeprefix("weight_crc/")].tobytes()) == crc
    return state


@pytest.fixture(scope="session")
def inception_file(inception_state: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The 472 tensors by their published names, without metadata."""
    file = tmp_path_factory.mktemp("inception") / "inception.safetensors"
    write_safetensors(file, inception_state)
    return file
