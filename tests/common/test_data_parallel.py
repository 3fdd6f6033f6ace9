"""A batch over several devices: every image has the bits it has on one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest

from flexidit_jax.api import FlexiDiT
from flexidit_jax.common.data_parallel import copied, even, local_mesh, on_each, split
from flexidit_jax.common.errors import UserError
from flexidit_jax.sampling.engine import Engine


@pytest.mark.parametrize(("batch", "devices", "found"), [(1, 1, 1), (7, 1, 7), (1, 8, 8), (8, 8, 8), (9, 8, 16)])
def test_the_least_batch_that_splits(batch: int, devices: int, found: int) -> None:
    assert even(batch, devices) == found


def test_one_device_changes_nothing() -> None:
    assert local_mesh(1) is None
    x = np.arange(3)
    assert split(x, None) is x
    assert copied(x, None) is x
    assert on_each(np.add, None, 1) is np.add


@pytest.mark.parametrize("devices", [0, -1, jax.local_device_count() + 1])
def test_devices_that_are_not_there(flex: FlexiDiT, devices: int) -> None:
    message = f"devices must lie in 1..{jax.local_device_count()}, the devices here, got {devices}"
    with pytest.raises(UserError, match=message):
        Engine(flex.model, flex.params, flex.patches, devices=devices)


#: 24 samples: three on each of eight devices, and the same in batches of three on one
COMPARE = """
import dataclasses, sys
import jax, numpy as np
import flexidit_jax as fd
from flexidit_jax.codecs.sd_vae import Codec
from flexidit_jax.models.build import build_dit, init
from flexidit_jax.models.flexify import flexify
from flexidit_jax.sampling import engine
from flexidit_jax.sampling.engine import compiled_programs

assert jax.device_count() == 8
shared = fd.load("tests/golden/dit_tiny.safetensors").flexify((2, 4))
labels, words = np.arange(24) % 8, {"steps": 3, "schedule": "4:1,2:2", "guide": "4:3", "progress": False}
noise = np.random.default_rng(0).normal(size=(24, 8, 8, 4)).astype(np.float32)
z = np.random.default_rng(1).normal(size=(3, *noise.shape)).astype(np.float32)
decoding = dataclasses.replace(shared, codec=Codec(path=sys.argv[1], slice=2))
cases = {
    "drawn noise": (shared, {"decode": False}),
    "given noise": (shared, {"decode": False, "noise": noise, "step_noise": z}),
    "a solver with a memory": (shared, {"decode": False, "solver": "dpmpp_2m"}),
    "rows that images share": (shared, {"decode": False, "packing": "packed"}),
    "the VAE": (decoding, {}),
}
text = {"name": "text", "features": 24, "length": 10, "null_length": 2}
model = build_dit((1, 8, 8, 4), text, width=64, depth=2, num_heads=4, modulation="single")
reads = flexify(init(model, jax.random.key(0)), [(1, 2, 2), (1, 4, 4)])
reads = jax.tree.map(lambda leaf: leaf + 0.1 * np.sin(np.arange(leaf.size)).astype("f").reshape(leaf.shape), reads)
reads = fd.FlexiDiT(model, reads, shared.process, None)
texts = [np.random.default_rng(i).normal(size=(1 + i % 10, 24)).astype(np.float32) for i in range(16)]  # tables in both
cases["texts"] = (reads, {"decode": False, "packing": "packed"})
for name, (flex, more) in cases.items():
    asked = texts if name == "texts" else labels
    one = flex.sample(asked, batch=len(asked) // 8, **words, **more)
    before = compiled_programs()
    eight = dataclasses.replace(flex, devices=8).sample(asked, batch=len(asked), **words, **more)
    near = np.abs(1.0 * one - eight).max() <= 1e-6 * np.abs(1.0 * one).max()  # a CPU sums few keys in another order
    same = near if name == "texts" else np.array_equal(one, eight)
    print(name, same, one.std() > 0, compiled_programs() - before)
calls, step = {}, engine._steps()
engine._steps = lambda: lambda *args: calls.setdefault(args[:5], args) and step(*args)
eight = dataclasses.replace(shared, devices=8)
eight.sample(labels, batch=24, packing="packed", decode=False, **words)
texts = [step.lower(*args).compile().as_text() for args in calls.values()]
moved = [word for word in ("all-", "collective-", "reduce-scatter") if any(word in text for text in texts)]
print("exchanged by", len(texts), "programs:", moved)
rest = eight.sample(labels[:13], batch=9, decode=False, **words)  # 16 a call
print("rounding", rest.shape, np.abs(rest - shared.sample(labels[:13], decode=False, **words)).max() < 1e-3)
specs = [fd.SampleSpec(steps=3, schedule=text, guidance=2.0, seed=len(text)) for text in ("4:1,2:2", "2:3", "4:3")] * 4
mixed = eight.sample(labels[:12], spec=specs, decode=False, progress=False)  # groups of four and eight, of 16
print("groups", np.abs(mixed - shared.sample(labels[:12], spec=specs, decode=False, progress=False)).max() < 1e-3)
"""


@pytest.mark.slow
def test_eight_devices_give_the_bits_of_one(on_devices: Callable[..., str], vae_folder: Path) -> None:
    assert on_devices(8, "-c", COMPARE, vae_folder).splitlines() == [
        "drawn noise True True 2",  # a program for each of the two kinds of step, and no more
        "given noise True True 0",
        "a solver with a memory True True 0",
        "rows that images share True True 1",
        "the VAE True True 0",
        "texts True True 7",  # tables of two modes, what is kept of one text and of two, and no vector of any
        "exchanged by 2 programs: []",
        "rounding (13, 8, 8, 4) True",
        "groups True",
    ]
