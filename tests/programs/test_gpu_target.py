"""GPUs that are not there: their names, their descriptions, and XLA's programs for them where its compiler is."""

from __future__ import annotations

import importlib.util
import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from flexidit_jax.common.chips import GPUS, peak_flops
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.program_cache import compiling_anew
from flexidit_jax.programs.collectives import collectives
from flexidit_jax.programs.gpu_target import description, gpus
from flexidit_jax.programs.hlo import parse
from flexidit_jax.programs.launches import PRODUCT, launches

#: run where `pip install -e ".[gpu]"` was
CUDA_COMPILER = pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is None, reason="the compiler for CUDA is not installed"
)


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """What a compiler for CUDA is asked for, in its place."""
    asked: list[dict[str, str]] = []

    class Topology:
        devices = ("card",)

    def described(**words: str) -> Topology:
        asked.append(words)
        return Topology()

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", described)
    return asked


@pytest.mark.parametrize(("name", "kind", "shape"), [("gpu:a100", "a100", "1x1x1"), ("gpu:h100x8", "h100", "1x1x8")])
def test_cards_of_one_machine(compiler: list[dict[str, str]], name: str, kind: str, shape: str) -> None:
    where = gpus(name)
    assert (where.name, where.devices, where.chip) == (name, ["card"], GPUS[kind])
    assert compiler == [
        {"topology_name": shape, "topology": shape, "platform": "cuda", "target_config": description(kind)}
    ]


@pytest.mark.parametrize("kind", GPUS)
def test_a_description_is_of_the_chip_whose_figures_are_known(compiler: list[dict[str, str]], kind: str) -> None:
    text, chip = description(kind), GPUS[kind]
    assert gpus(f"gpu:{kind}").hbm / 2**30 == pytest.approx(chip.hbm, abs=0.01)
    bandwidth = int(re.search(r"^ +memory_bandwidth: (\d+)$", text, re.MULTILINE)[1])
    assert bandwidth / 1e9 == pytest.approx(chip.bandwidth, abs=1)
    name = re.search(r'device_description_str: "(.*)"', text)[1]
    assert peak_flops(name, "bfloat16") == 1e12 * chip.tflops


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("gpu:h1000", "no GPU 'gpu:h1000'; did you mean 'gpu:h100'?"),
        ("gpu:h100x0", "no GPU 'gpu:h100x0'; did you mean 'gpu:h100x8'?"),
        ("gpu:v5e:2x2", f"no GPU 'gpu:v5e:2x2'; known: {', '.join(f'gpu:{kind}, gpu:{kind}x8' for kind in GPUS)}"),
        ("gpu:h100x16", "no GPU 'gpu:h100x16': a machine of them has up to 8; gpu:h100x8 would do"),
    ],
)
def test_other_names(compiler: list[dict[str, str]], name: str, message: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        gpus(name)
    assert compiler == []


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            NotImplementedError("topology not implemented for cuda"),
            '--topology needs the compiler for CUDA, which is not installed: pip install -e ".[gpu]", about 5.5 GB',
        ),
        (RuntimeError("no libcudnn\nat all"), "the compiler for CUDA does not start (no libcudnn)"),
    ],
)
def test_without_the_compiler(monkeypatch: pytest.MonkeyPatch, error: Exception, message: str) -> None:
    def absent(**words: str) -> None:
        raise error

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", absent)
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        gpus("gpu:h100")


@pytest.mark.oracle
@CUDA_COMPILER
@pytest.mark.parametrize("kind", GPUS)
def test_a_product_for_a_card(kind: str) -> None:
    here = SingleDeviceSharding(gpus(f"gpu:{kind}").devices[0])
    x = jax.ShapeDtypeStruct((4096, 4096), jnp.bfloat16, sharding=here)
    with compiling_anew():
        text = jax.jit(jnp.matmul).lower(x, x).compile().as_text()
    (one,) = launches(parse(text))
    assert (one.kind, one.times, one.bytes) == (PRODUCT, 1, 3 * 4096 * 4096 * 2)


@pytest.mark.oracle
@CUDA_COMPILER
def test_a_sum_over_the_cards_of_a_machine() -> None:
    where = gpus("gpu:h100x4")
    assert len(where.devices) == 4
    split = NamedSharding(Mesh(where.devices, ("cards",)), PartitionSpec("cards"))
    x = jax.ShapeDtypeStruct((4, 1024), jnp.float32, sharding=split)
    whole = NamedSharding(split.mesh, PartitionSpec())
    with compiling_anew():
        text = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile().as_text()
    assert collectives(parse(text))["all-reduce"].bytes == 1024 * 4
