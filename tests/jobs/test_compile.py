"""`--mode=compile`: end to end on this machine, on eight devices of a CPU, for TPUs and GPUs that are not there."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from flexidit_jax.common.chips import GPUS, TPUS
from flexidit_jax.common.compiler_options import OPTIONS
from flexidit_jax.common.config import load_config, override
from flexidit_jax.common.errors import UserError
from flexidit_jax.experiment.experiment import Experiment, build_experiment
from flexidit_jax.main import main
from flexidit_jax.models.flops import forward_flops
from flexidit_jax.models.patch import tokens
from flexidit_jax.programs.collectives import Traffic
from flexidit_jax.programs.cost import Compiled, compile_program, table
from flexidit_jax.programs.gpu_target import gpus
from flexidit_jax.programs.lower import Lowering, sampling_programs, training_programs
from flexidit_jax.programs.slices import Slice, devices_here, tpu_slice
from flexidit_jax.training.sharding import make_mesh, mesh_over

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"
SMOKE = f"--config={CONFIGS / 'imagenet256.py'}:smoke"
WAN = f"--config={CONFIGS / 'wan.py'}:1.3b"
MOST = 2**29
TPU_COMPILER = importlib.util.find_spec("libtpu") is not None or "TPU_LIBRARY_PATH" in os.environ


def experiment(config: str = "imagenet256.py:smoke", **keys: str) -> Experiment:
    loaded = load_config(str(CONFIGS / config))
    for key, value in keys.items():
        override(loaded, key.replace("__", "."), value)
    return build_experiment(loaded)


# ---------------------------------------------------------------- End to end


def test_for_the_devices_at_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = jax.config.jax_enable_compilation_cache
    words = ["--mode=compile", f"--workdir={tmp_path}", "--config.train.stages[0].patches=(2,)"]
    assert main([SMOKE, *words]) == 0
    assert jax.config.jax_enable_compilation_cache == before
    out = capsys.readouterr().out
    record = json.loads((tmp_path / "compile" / "cpu_1.json").read_text())
    assert (tmp_path / "compile" / "cpu_1.md").read_text() in out
    step, sample = record["programs"]
    assert (step["name"], sample["name"]) == ("train, patch 2", "sample, 2+2")
    forward = forward_flops(experiment().model, (1, 2, 2))
    for one, flops in ((step, 3 * 8 * forward), (sample, 2 * 2 * forward)):
        assert one["flops"] == flops and one["unknown_loops"] == 0
        assert one["traffic"] == {} and one["fits"] is None
    # parameters, average and two moments in float32; the batch is small beside them
    assert step["arguments"] == pytest.approx(4 * 4 * 87_000, rel=0.05)
    assert step["outputs"] - step["aliased"] < 4096  # the state is given away


#: a program whose traffic is known, then the job itself, on eight devices of one process
EIGHT = """
import json, sys
import jax, jax.numpy as jnp
from functools import partial
from jax.sharding import PartitionSpec as P
from flexidit_jax.programs.collectives import collectives
from flexidit_jax.programs.hlo import parse
from flexidit_jax.main import main

mesh = jax.make_mesh((2, 4), ("a", "b"), axis_types=(jax.sharding.AxisType.Auto,) * 2)

@jax.jit
@partial(jax.shard_map, mesh=mesh, in_specs=P("a", "b"), out_specs=P("a", None), check_vma=False)
def known(x):  # [16, 64] on each device
    def body(y, _):
        return jnp.tanh(jax.lax.psum(y, "b")), None
    y, _ = jax.lax.scan(body, x, length=5)
    return jax.lax.all_gather(y, "b", axis=1, tiled=True)

text = known.lower(jax.ShapeDtypeStruct((32, 256), jnp.float32)).compile().as_text()
assert main(sys.argv[1:]) == 0
print(json.dumps({kind: vars(t) for kind, t in collectives(parse(text)).items()}))
"""


@pytest.mark.slow
def test_on_eight_devices(on_devices: Callable[..., str], tmp_path: Path) -> None:
    words = [SMOKE, "--mode=compile", f"--workdir={tmp_path}", "--config.compile.programs=('train',)"]
    words += ["--config.train.mesh.fsdp=4", "--config.train.stages[0].patches=(2,)"]
    out = on_devices(8, "-c", EIGHT, *words)
    size = 16 * 64 * 4
    assert json.loads(out.splitlines()[-1]) == {
        "all-gather": {"count": 1, "bytes": 4 * size, "sent": 3 * size},
        "all-reduce": {"count": 5, "bytes": 5 * size, "sent": 5 * size * 2 * 3 / 4},
    }
    record = json.loads((tmp_path / "compile" / "cpu_8.json").read_text())
    assert record["mesh"] == {"data": 2, "fsdp": 4, "tensor": 1}
    step = record["programs"][0]
    assert step["chips"] == 8 and step["flops"] == 3 * forward_flops(experiment().model, (1, 2, 2))
    assert step["traffic"]["all-reduce"]["bytes"] > 0


def test_a_model_of_texts_wants_no_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = {"width": 24, "depth": 1, "num_heads": 2, "latent": (3, 8, 8, 16), "conditioner.features": 8}
    words = {f"model.{key}": value for key, value in words.items()} | {"sample.batch": None, "train.batch": 2}
    words |= {"train.stages[0].patches": ("1x2x2", "2x2x2"), "train.stages[0].adapters": 2}
    assert main([WAN, "--mode=compile", f"--workdir={tmp_path}", *(f"--config.{k}={v}" for k, v in words.items())]) == 0
    out = capsys.readouterr().out
    step, sample = json.loads((tmp_path / "compile" / "cpu_1.json").read_text())["programs"]
    assert (step["name"], step["batch"]) == ("train, patch 2x2x2", 2)
    assert (sample["name"], sample["batch"], sample["kept"]) == ("sample, 2+2", 1, 2 * 2 * 512 * 24 * 2)
    first = sample["largest"][0]
    assert f"| sample, 2+2 | {first['bytes'] / 2**20:.4g} {first['shape']} {first['by']}; " in out
    assert len(sample["largest"]) == 3 and 0 < first["bytes"] < 2**20


@pytest.mark.parametrize(
    ("config", "hidden", "macs"),
    [("wan.py:1.3b", 8960, 141.50), ("wan.py:14b", 13824, 839.19), ("wan.py", 8960, 141.50)],
)
def test_sizes_of_wans(config: str, hidden: int, macs: float) -> None:
    model = experiment(config).model
    assert (model.hidden, model.width // model.num_heads, model.dtype) == (hidden, 128, "bfloat16")
    assert forward_flops(model, (1, 2, 2)) / 2e12 == pytest.approx(macs, abs=0.01)


def test_a_wan_that_there_is_not() -> None:
    with pytest.raises(UserError, match=r"^configs/wan\.py has no variant '5b'; known: 1\.3b, 14b$"):
        load_config(f"{CONFIGS / 'wan.py'}:5b")


def largest(where: Slice, *programs: str) -> dict[str, int]:
    """Bytes of the largest array of programs of a step of Wan 1.3B, one block of it, 81 frames of 480x832."""
    keys = {"model__depth": "1", "train__batch": "1", "sample__schedule": "'1x4x4:20,1x2x2:30'"}
    built = experiment("wan.py:1.3b", **keys)
    parts = (built.model, built.process, built.train)
    lowerings = [*sampling_programs(*parts, built.sample.spec, 1, where.devices[0])]
    lowerings += training_programs(*parts, 0, mesh_over(where.devices[:1])) if len(programs) > 2 else []
    made = {one.name: compile_program(one, where).largest[0].bytes for one in lowerings if one.name in programs}
    assert set(made) == set(programs)
    return made


def test_no_array_of_480p_is_large() -> None:
    """Scores would be 96 GiB. A CPU's products are float32, with twice the bytes of what runs elsewhere, and what is
    between the two of an MLP its library does not show (`tests/models/test_layers.py`).
    """
    assert largest(devices_here(), "sample, 2+2")["sample, 2+2"] < 2 * MOST


@pytest.mark.slow
@pytest.mark.skipif(not TPU_COMPILER, reason="libtpu is not installed")
def test_no_array_of_480p_is_large_on_a_tpu() -> None:
    made = largest(tpu_slice("v5e:1x1"), "sample, 2+2", "sample, 4+4", "train, patch 4")
    assert max(made.values()) < MOST


@pytest.mark.oracle
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="no compiler for CUDA")
def test_no_array_of_480p_is_large_on_a_gpu() -> None:
    made = largest(gpus("gpu:h100"), "sample, 2+2", "sample, 4+4", "train, patch 2x2x2", "train, patch 4")
    assert max(made.values()) < MOST


@pytest.mark.slow
@pytest.mark.skipif(not TPU_COMPILER, reason="libtpu is not installed")
def test_for_a_slice_that_is_not_there(tmp_path: Path) -> None:
    words = [SMOKE, "--mode=compile", "--topology=v5e:2x2", f"--workdir={tmp_path}", "--config.train.mesh.fsdp=2"]
    words += ["--config.train.stages[0].patches=(2,)"]
    assert main(words) == 0
    record = json.loads((tmp_path / "compile" / "v5e_2x2.json").read_text())
    step, sample = record["programs"]
    assert record["mesh"] == {"data": 2, "fsdp": 2, "tensor": 1} and record["devices"] == 4
    assert step["fits"] and step["total"] < 2**30 and step["traffic"]["all-reduce"]["count"] > 0
    assert step["unknown_loops"] == 0 and set(step["estimate"]) == {"compute", "memory", "links"}
    assert sample["chips"] == 1 and sample["traffic"] == {}
    for mesh in ({"fsdp": 2}, {"fsdp": 64}):  # neither is a product of whole axes of this torus
        assert mesh_over(tpu_slice("v5p:4x4x8").devices, **mesh).shape["fsdp"] == mesh["fsdp"]
    for name in ("v5e:3x4", "v5e:6x3"):
        with pytest.raises(UserError, match=rf"^no TPU slice '{name}'; did you mean '"):
            tpu_slice(name)
    words += ["--config.model.width=32768", "--config.compile.programs=('sample',)"]
    assert main(words) == 0
    (sample,) = json.loads((tmp_path / "compile" / "v5e_2x2.json").read_text())["programs"]
    assert sample["fits"] is False and sample["estimate"] is None


@pytest.mark.oracle
@pytest.mark.skipif(importlib.util.find_spec("jax_cuda12_plugin") is None, reason="no compiler for CUDA")
def test_for_a_gpu_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [SMOKE, "--mode=compile", f"--workdir={tmp_path}", "--config.train.stages[0].patches=(2,)"]
    one_card = ["--topology=gpu:h100", "--config.compile.programs=('sample',)", "--config.model.depth=4"]
    assert main([*words, *one_card]) == 0
    record = json.loads((tmp_path / "compile" / "gpu_h100.json").read_text())
    assert (tmp_path / "compile" / "gpu_h100.md").read_text() in capsys.readouterr().out
    (sample,) = record["programs"]
    blocks = 4 * (1 + 2 + 1 + 2)  # qkv, attention's own two, proj, the mlp
    assert sample["launches"] - sample["launches_other"] >= blocks
    assert sample["launches_other"] > 0 and 0 < sample["bytes_other"] < sample["moved"]
    assert sample["weight_copies"] is not None and sample["fits"]
    assert sample["largest_batch"] == 2**16  # so small a model that no more is tried
    assert sample["memory"]["total"] == sample["total"] < 2**24
    assert set(sample["estimate"]) == {"compute", "memory", "links"}
    machine = ["--topology=gpu:a100x2", "--config.train.mesh.fsdp=2", "--config.compile.programs=('train',)"]
    assert main([*words, *machine, "--config.compile.largest_batch=False"]) == 0
    (step,) = json.loads((tmp_path / "compile" / "gpu_a100x2.json").read_text())["programs"]
    assert step["chips"] == 2 and step["traffic"]["all-gather"]["bytes"] > 0
    assert step["largest_batch"] is None and step["launches"] > step["launches_other"] > 0


@pytest.mark.skipif(not TPU_COMPILER, reason="libtpu is not installed")
def test_programs_of_a_slice_run_its_attention() -> None:
    built, where = experiment(model__dtype="'bfloat16'"), tpu_slice("v5e:1x1").devices
    parts = (built.model, built.process, built.train)
    sample = next(sampling_programs(*parts, built.sample.spec, 2, where[0]))
    train = next(training_programs(*parts, 0, mesh_over(where)))
    assert ["tpu_custom_call" in program.lower().as_text() for program in (sample, train)] == [True, True]


# ---------------------------------------------------------------- Parts


def test_pairs_are_those_that_sampling_runs() -> None:
    def names(**keys: str) -> list[str]:
        return [one.name for one in sampled(experiment(**keys))]

    assert names() == ["sample, 2+2"]
    assert names(sample__guidance="1.0", sample__schedule="'4:1,2:3'") == ["sample, 4+none", "sample, 2+none"]
    weak = {"sample__schedule": "'2:4'", "sample__guide": "'4:3,none:1'"}
    assert names(**weak, sample__packing="'joined'") == ["sample, 2+4, joined", "sample, 2+none"]
    assert names(**weak, sample__packing="'auto'")[:4] == [
        f"sample, 2+4, {layout}" for layout in ("separate", "packed", "joined", "padded")
    ]
    assert names(sample__latency_ms="5.0") == ["sample, 2+2", "sample, 4+4"]


def sampled(built: Experiment, batch: int = 2) -> Iterator[Lowering]:
    parts = (built.model, built.process, built.train, built.sample.spec)
    return sampling_programs(*parts, batch, jax.devices()[0])


def trained(built: Experiment) -> Iterator[Lowering]:
    return training_programs(built.model, built.process, built.train, built.seed, make_mesh())


def test_modes_that_a_stage_does_not_draw_are_left_out() -> None:
    built = experiment("imagenet256_adapters.py:smoke")
    assert [one.name for one in trained(built)] == ["train, stage 1, patch 2", "train, stage 2, patch 4"]


def test_recomputation_is_apart() -> None:
    built = experiment()
    records, n = built.train.batch // jax.device_count(), tokens(built.model.latent, built.model.patch)
    attention = records * 2 * built.model.depth * 2 * n**2 * built.model.width
    for remat in ("'none'", "dots", "full"):
        one = next(trained(experiment(model__remat=remat)))
        assert one.recomputed == {"'none'": 0, "dots": attention, "full": one.flops / 3}[remat]


def test_the_table_and_its_estimate() -> None:
    where = Slice("v5e:2x2", (), TPUS["v5e"], 16 * 2**30)
    gib = 2**30
    sizes = {"arguments": gib, "outputs": gib, "aliased": gib // 2, "temporaries": 2 * gib, "code": 0}
    traffic = {"all-reduce": Traffic(28, 3 * gib, 400e9)}
    one = Compiled("train, patch 2", 64, 4, 100e12, 97e12, 31.4, True, **sizes, traffic=traffic, moved=819e9)
    assert one.bounds(where) == {"compute": 1.0, "memory": 1.0, "links": 2.0}
    refused = Compiled("train, patch 4", 64, 4, 1e12, 0, 3, False, temporaries=21 * gib)
    text = table([one, refused], where).splitlines()
    assert text[2] == "| train, patch 2 | 64 | 1 | 0.5 | 2 | 3.5 | yes, of 16 | 31 s |"
    assert text[3] == "| train, patch 4 | 64 | - | - | 21 | - | NO, of 16 | 3 s |"
    assert text[7] == "| train, patch 2 | 100 | 97 | 763 | all-reduce 28, 3 | 2e+03 ms | links |"
    assert text[8] == "| train, patch 4 | 1 | 0 | - | - | - | - |"


def test_the_table_of_a_gpu() -> None:
    where = Slice("gpu:h100", (), GPUS["h100"], 80 * 2**30)
    gib = 2**30
    sizes = {"arguments": gib, "outputs": 0, "aliased": 0, "temporaries": 2 * gib, "code": 0}
    counts = {"launches": 660.0, "launches_other": 487.0, "bytes_other": 56.5 * gib, "weight_copies": 1.25 * gib}
    one = Compiled(
        "sample, 2+2", 64, 1, 30e12, 0, 2.6, True, **sizes, **counts, traffic={}, moved=gib, largest_batch=8192
    )
    text = table([one], where).splitlines()
    assert text[2] == "| sample, 2+2 | 64 | 1 | 0 | 2 | 3 | yes, of 80; largest batch 8192 | 3 s |"
    assert text[6] == "| sample, 2+2 | 660 | 487 | 56.5 | 1.25 |"
    assert text[10].endswith("| none | 30.3 ms | compute |")
    assert one.as_json(where)["memory"] == {**sizes, "total": 3 * gib}


def test_another_batch_is_the_same_program_for_more_images() -> None:
    built, twice = experiment(), experiment(train__batch="16")
    pairs = ((trained(built), trained(twice)), (sampled(built, 2), sampled(built, 4)))
    for one, other in ((next(first), next(second)) for first, second in pairs):
        assert one.batch * 2 == other.batch and one.flops * 2 == other.flops
        assert replace(one, batch=other.batch).lower().as_text() == other.lower().as_text() != one.lower().as_text()


def test_what_divides_every_batch() -> None:
    assert next(trained(experiment(train__accumulate="4"))).multiple == 4 * jax.device_count()
    assert next(sampled(experiment())).multiple == 1


@pytest.mark.parametrize("programs", [trained, sampled])
def test_the_compiler_is_told_the_options_of_what_it_compiles_for(
    monkeypatch: pytest.MonkeyPatch, programs: Callable[..., Iterator[Lowering]]
) -> None:
    where = Slice("cpu:1", jax.devices(), None, None)
    monkeypatch.setitem(OPTIONS, "cpu", {"xla_no_such_option": True})
    with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
        compile_program(next(programs(experiment())), where)
    monkeypatch.setitem(OPTIONS, "gpu", OPTIONS.pop("cpu"))
    assert compile_program(next(programs(experiment())), where).arguments > 0


# ---------------------------------------------------------------- Refusals


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--topology=v5e:4x5x6"], r"no TPU slice 'v5e:4x5x6'; did you mean 'v5e:4x"),
        (["--topology=v5e:32x32"], r"no TPU slice 'v5e:32x32'; did you mean "),
        (["--topology=v9:2x2"], r"no TPU slice and no GPU 'v9:2x2'; known: v4:8x8x8, .*gpu:h100, .*and other shapes$"),
        (["--topology=gpu:h1000"], r"no GPU 'gpu:h1000'; did you mean 'gpu:h100'\?$"),
        (["--config.compile.programs=('trian',)"], r"compile.programs must be a list of train, sample, got \["),
        (
            ["--config.train.mesh.fsdp=3"],
            r"mesh data=-1 x fsdp=3 x tensor=1 does not fit 1 device\(s\); fsdp=1 would do$",
        ),
    ],
)
def test_bad_input_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SMOKE, "--mode=compile", *words]) == 2
    err = capsys.readouterr().err
    assert re.match(f"error: {message}", err.strip()), err
    assert err.count("\n") == 1


def test_without_the_tpu_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def absent(**words: object) -> None:
        raise RuntimeError("JAX TPU support not installed; cannot generate TPU topology.")

    monkeypatch.setattr("jax.experimental.topologies.get_topology_desc", absent)
    assert main([SMOKE, "--mode=compile", "--topology=v5e:2x2"]) == 2
    assert 'which is not installed: pip install -e ".[tpu]"' in capsys.readouterr().err


def test_the_flag_is_for_this_mode(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([SMOKE, "--mode=train", "--topology=v5e:2x2"]) == 2
    assert capsys.readouterr().err == "error: --topology is for --mode=compile, not for --mode=train\n"
