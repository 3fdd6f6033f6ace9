"""The public face: every name, shape and number that a caller may rely on."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.codecs.identity import Codec
from flexidit_jax.common.trees import flatten
from flexidit_jax.diffusion import flow
from flexidit_jax.diffusion.gaussian import Process
from flexidit_jax.models.build import build_dit

ROOT = Path(__file__).parents[1]
GOLDEN = Path(__file__).parent / "golden" / "dit_tiny.safetensors"
P2, P4 = (1, 2, 2), (1, 4, 4)
#: a batch of the smoke report: nothing new to compile
LABELS = [0, 1, 2, 3, 4] * 10
QUICK = {"steps": 4, "guidance": 1.0, "progress": False}


@pytest.fixture(scope="module")
def trained(smoke_run: Path) -> fd.FlexiDiT:
    return fd.load(smoke_run)


def assert_same_bits(ours: fd.FlexiDiT, theirs: fd.FlexiDiT) -> None:
    assert ours.model == theirs.model
    assert ours.patches == theirs.patches
    a, b = flatten(ours.params), flatten(theirs.params)
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].dtype == b[path].dtype
        np.testing.assert_array_equal(a[path], b[path], err_msg=path)


# ---------------------------------------------------------------- Names


def test_names() -> None:
    assert set(fd.__all__) == {"FlexiDiT", "FlopCount", "NotFinite", "Prediction", "SampleSpec", "UserError", "load"}
    assert fd.FlopCount._fields == ("total", "relative", "relative_unguided")
    assert fd.Prediction._fields == ("output", "variance")
    parameters = list(inspect.signature(fd.load).parameters)
    assert parameters[:7] == ["path", "num_heads", "base", "weights", "process", "codec", "text"]
    assert parameters[7:] == ["input_size", "interpolation_scale", "length", "null", "null_mask"]
    assert list(inspect.signature(fd.FlexiDiT.predict).parameters) == ["self", "x", "t", "labels", "patch"]


def test_keywords_of_sample_and_flops_and_their_defaults() -> None:
    sample = inspect.signature(fd.FlexiDiT.sample).parameters
    wanted = {
        "steps": None,
        "budget": None,
        "schedule": None,
        "guide": None,
        "guidance": None,
        "guidance_channels": None,
        "solver": None,
        "seed": 0,
        "weak": None,
        "packing": "separate",
        "noise": None,
        "step_noise": None,
        "decode": True,
    }
    assert list(sample)[1] == "labels"
    assert {name: sample[name].default for name in wanted} == wanted
    plan = inspect.signature(fd.FlexiDiT.plan).parameters
    same = {name: parameter.default for name, parameter in plan.items() if name != "self"}
    assert same == {name: sample[name].default for name in same}
    assert {"steps", "schedule", "guide", "budget", "guidance"} <= set(same)
    assert set(inspect.signature(fd.FlexiDiT.flops).parameters) == {*plan, "text_kept"}


def test_patches_are_triples_powerful_first(dit: fd.FlexiDiT, flex: fd.FlexiDiT) -> None:
    assert dit.patches == (P2,)
    assert flex.patches == (P2, P4)
    assert dit.flexify([(1, 4, 4), "2x4", 2]).patches == (P2, (1, 2, 4), P4)
    assert "patches 2, 4" in repr(flex)


# ---------------------------------------------------------------- predict


@pytest.mark.parametrize("patch", [2, 4, None])
def test_predict_takes_images_and_clips(flex: fd.FlexiDiT, patch: int | None) -> None:
    x = np.random.default_rng(0).normal(size=(3, 8, 8, 4)).astype(np.float32)
    t = np.array([0, 500, 999])
    image = flex.predict(x, t, [1, 4, None], patch=patch)
    clip = flex.predict(x[:, None], t, [1, 4, None], patch=patch)
    for part, same in zip(image, clip, strict=True):
        assert part.shape == (3, 8, 8, 4)
        assert same.shape == (3, 1, 8, 8, 4)
        np.testing.assert_array_equal(part, same[:, 0])
    powerful = flex.predict(x, t, [1, 4, None], patch=(1, 2, 2))
    assert np.array_equal(image.output, powerful.output) == (patch != 4)


def test_the_null_class_has_two_names(flex: fd.FlexiDiT) -> None:
    x, t = np.ones((3, 8, 8, 4), np.float32), np.array([1, 2, 3])
    classes = flex.model.conditioner.classes
    named, numbered = flex.predict(x, t, [None] * 3), flex.predict(x, t, [classes] * 3)
    np.testing.assert_array_equal(named.output, numbered.output)
    assert not np.array_equal(named.output, flex.predict(x, t, [0] * 3).output)


def test_a_loaded_tree_waits_on_the_host_until_predict_asks(trained: fd.FlexiDiT) -> None:
    def here(flex: fd.FlexiDiT) -> set[type]:
        return {type(leaf) for leaf in jax.tree.leaves(flex.params)}

    published = fd.load(GOLDEN)
    assert here(trained) == here(published) == {np.ndarray}
    published.sample([1], decode=False, **QUICK)
    assert "_resident" not in vars(published)
    x = np.zeros((1, *published.model.latent), np.float32)
    traced = jax.jit(lambda x: published.predict(x, [0], [1]).output)(x)
    assert np.allclose(traced, published.predict(x, [0], [1]).output, atol=1e-5)  # no tracer was kept
    placed = vars(published)["_resident"]
    assert here(published) == {np.ndarray}
    published.predict(x, [1], [1])
    assert vars(published)["_resident"] is placed  # a second call moves no weights


def test_predict_reads_real_times_lists_and_what_is_traced(flex: fd.FlexiDiT) -> None:
    x, t = np.random.default_rng(0).normal(size=(2, 8, 8, 4)).astype(np.float32), np.array([0.5, 999.0], np.float32)
    plain = flex.predict(x, t, [0, 1]).output
    np.testing.assert_array_equal(flex.predict(x.tolist(), t.tolist(), [0, 1]).output, plain)
    traced = jax.jit(lambda x, t: flex.predict(x, t, [0, 1]).output)(x, t)
    np.testing.assert_allclose(traced, plain, rtol=0, atol=1e-5 * np.abs(plain).max())


def test_predict_refusals(flex: fd.FlexiDiT) -> None:
    x, t = np.zeros((2, 8, 8, 4), np.float32), np.zeros(2, np.int32)
    with pytest.raises(fd.UserError, match=r"^x must have shape \[B, 8, 8, 4\], got \[2, 8, 8, 3\]$"):
        flex.predict(x[..., :3], t, [0, 1])
    null = flex.model.conditioner.classes
    with pytest.raises(
        fd.UserError, match=rf"^label {null + 1} is out of range: 0\.\.{null}, {null} meaning no class$"
    ):
        flex.predict(x, t, [0, null + 1])
    with pytest.raises(fd.UserError, match=r"the model has no mode 8; it has 2, 4"):
        flex.predict(x, t, [0, 1], patch=8)
    with pytest.raises(fd.UserError, match=r"^x must be finite, got nan at \[1, 2, 3, 0\]$"):
        spoilt = x.copy()
        spoilt[1, 2, 3, 0] = np.nan
        flex.predict(spoilt, t, [0, 1])
    for wrong in ([0, 1000], [-1, 5]):
        with pytest.raises(
            fd.UserError, match=rf"^t must lie in 0\.\.999, the times of the process, got {min(wrong)}\.\."
        ):
            flex.predict(x, wrong, [0, 1])
    with pytest.raises(fd.UserError, match=r"^t must be finite, got nan at \[0\]$"):
        flex.predict(x, [np.nan, 1], [0, 1])
    flowing = dataclasses.replace(flex, process=flow.Process(steps=20))
    with pytest.raises(fd.UserError, match=r"^t must lie in 0\.\.20, the times of the process, got 0\.0\.\.20\.5$"):
        flowing.predict(x, [0, 20.5], [0, 1])
    for times, labels in ((t[:1], [0, 1]), (t, [0]), (np.int32(3), [0, 1])):
        with pytest.raises(fd.UserError, match=r"^x, t and labels"):
            flex.predict(x, times, labels)


# ---------------------------------------------------------------- sample


def test_sample_decodes_to_uint8(trained: fd.FlexiDiT) -> None:
    images = trained.sample(LABELS, budget=0.7, **QUICK)
    assert images.shape == (50, 8, 8, 1)
    assert images.dtype == np.uint8
    latents = trained.sample(LABELS, budget=0.7, decode=False, **QUICK)
    assert latents.shape == (50, 8, 8, 1)
    assert latents.dtype == np.float32
    np.testing.assert_allclose(images, np.clip((latents + 1) * 127.5, 0, 255), atol=0.51)


def test_latents_are_shaped_like_the_noise(trained: fd.FlexiDiT) -> None:
    noise = np.random.default_rng(0).normal(size=(50, 8, 8, 1)).astype(np.float32)
    image = trained.sample(LABELS, noise=noise, decode=False, **QUICK)
    clip = trained.sample(LABELS, noise=noise[:, None], decode=False, **QUICK)
    assert image.shape == noise.shape
    assert clip.shape == (50, 1, 8, 8, 1)
    np.testing.assert_array_equal(clip[:, 0], image)


def test_budget_and_its_schedule_are_the_same_call(trained: fd.FlexiDiT) -> None:
    (weak, n), (powerful, m) = trained.plan(steps=4, budget=0.7, guidance=1).schedule
    assert (weak, powerful, n + m) == (P4, P2, 4)
    by_budget = trained.sample(LABELS, budget=0.7, **QUICK)
    np.testing.assert_array_equal(by_budget, trained.sample(LABELS, schedule=f"4:{n},2:{m}", **QUICK))
    assert not np.array_equal(by_budget, trained.sample(LABELS, **QUICK))


def test_a_published_file_decodes_with_the_vae_where_it_is(dit: fd.FlexiDiT, vae_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(fd.UserError, match=r"^the VAE's weights weights/sd-vae-ft-ema/diff.* do not exist; put diff"):
        dit.sample([1], steps=2)
    with pytest.raises(fd.UserError, match=r"^this model has no codec .* pass decode=False for latents$"):
        dataclasses.replace(dit, codec=None).sample([1], steps=2)
    dit.export(tmp_path / "transformer")
    assert fd.load(tmp_path).codec == dit.codec
    (tmp_path / "vae").symlink_to(vae_folder)
    images = fd.load(tmp_path).sample([1], steps=2, progress=False)
    assert (images.shape, images.dtype) == ((1, 64, 64, 3), np.uint8)


def test_sample_refusals(dit: fd.FlexiDiT, flex: fd.FlexiDiT) -> None:
    noise = np.zeros((2, 8, 8, 4), np.float32)
    latent = {"decode": False, "steps": 4}
    for words, message in (
        ({**latent, "guidance_channels": 5}, r"^guidance_channels must lie in 1\.\.4, got 5$"),
        ({**latent, "guidance_channels": 0}, r"^guidance_channels must lie in 1\.\.4, got 0$"),
        ({**latent, "first": -1}, r"^first must be at least 0, got -1$"),
        ({**latent, "first": 2**32 - 1}, r"^first must lie in 0\.\.2\^32-2 for 2 samples, got 4294967295$"),
        ({**latent, "first": 1.5}, r"^first must be int, got 1\.5$"),
        ({**latent, "first": None}, r"^first must be int, got None$"),
        ({**latent, "batch": 0}, r"^batch must be at least 1, got 0$"),
        ({**latent, "batch": "x"}, r"^batch must be int or None, got 'x'$"),
        ({**latent, "batch": 1.5}, r"^batch must be int or None, got 1\.5$"),
        ({**latent, "noise": noise[:1]}, r"^noise is for 1 samples, but 2 are asked for$"),
        ({**latent, "noise": noise[:, :4]}, r"^noise must have shape \[B, 8, 8, 4\], got \[2, 4, 8, 4\]$"),
        ({**latent, "step_noise": np.zeros((4, 2, 8, 8, 4))}, r"^step_noise must .* come with noise"),
        ({**latent, "noise": noise, "step_noise": np.zeros((3, 2, 8, 8, 4))}, r"^step_noise must have shape \[steps=4"),
        ({**latent, "solver": "dpdm"}, r"^no 'dpdm' in solvers/; did you mean 'ddpm'\?$"),
        ({**latent, "weak": 8, "budget": 0.5}, r"^weak=8 is not a mode of this model; it has 2, 4$"),
    ):
        with pytest.raises(fd.UserError, match=message):
            flex.sample([0, 1], **words)
    with pytest.raises(fd.UserError, match=r"^budget 0\.5 is below what patch 2 alone costs"):
        dit.sample([0, 1], budget=0.5, **latent)


# ---------------------------------------------------------------- flops


@pytest.fixture(scope="module")
def xl() -> fd.FlexiDiT:
    """DiT-XL/2 at 256x256 with modes 2 and 4: counting needs no weights."""
    model = build_dit(latent=(1, 32, 32, 4), conditioner={"name": "classes", "classes": 1000}, size="XL")
    return fd.FlexiDiT(model, {"modes": {"1x2x2": {}, "1x4x4": {}}}, Process(), None)


@pytest.mark.parametrize(
    ("words", "percent", "bar"),
    [
        ({}, 100, 1e-9),
        ({"schedule": "4:120,2:130"}, 64, 0.5),
        ({"schedule": "4:180,2:70"}, 46, 0.5),
        ({"schedule": "4:160,2:90", "guide": "4:200,2:50"}, 46, 0.5),
        ({"schedule": "90/50"}, 46, 0.5),
        ({"schedule": "4:220,2:30", "guide": "4:250"}, 29, 0.5),
        ({"schedule": "30/0"}, 29, 0.5),
        ({"schedule": "4:50,2:200", "guidance": 1}, 84.9, 0.3),
        ({"schedule": "4:100,2:150", "guidance": 1}, 69.7, 0.3),
        ({"schedule": "4:150,2:100"}, 54.6, 0.3),
        ({"budget": 0.64}, 64, 0.5),
    ],
)
def test_published_percentages(xl: fd.FlexiDiT, words: dict, percent: float, bar: float) -> None:
    assert 100 * xl.flops(steps=250, **words).relative == pytest.approx(percent, abs=bar)


def test_totals_are_per_sample_and_count_the_guide(xl: fd.FlexiDiT) -> None:
    one = xl.flops(steps=1, guidance=1)
    assert one[:2] == (pytest.approx(2 * 118.6e9, rel=2e-3), 1.0)
    assert xl.flops(steps=250, guidance=1).total == pytest.approx(250 * one.total)
    assert xl.flops(steps=250).total == pytest.approx(500 * one.total)
    weak = xl.flops(steps=1, schedule="4:1", guidance=1)
    assert weak.total == pytest.approx(2 * 29.0e9, rel=2e-3)
    guided = xl.flops(steps=2, schedule="2:2", guide="4:2")
    assert guided.total == pytest.approx(2 * one.total + 2 * weak.total)
    assert guided.relative == pytest.approx(guided.total / (4 * one.total))
    assert guided.relative_unguided == pytest.approx(guided.total / (2 * one.total)) == 2 * guided.relative


# ---------------------------------------------------------------- save and load


def test_save_and_load_keep_every_bit(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), flex.params)
    process = Process(steps=500, beta_end=0.01)
    model = dataclasses.replace(flex, params=params, codec=Codec(), process=process)
    model.save(tmp_path / "deep" / "model")
    assert sorted(path.name for path in (tmp_path / "deep" / "model").iterdir()) == ["config.json", "model.safetensors"]
    again = fd.load(tmp_path / "deep" / "model")
    assert_same_bits(again, model)
    assert (again.process, again.codec) == (process, Codec())


def test_a_lone_mode_survives_a_save(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    dit.save(tmp_path)
    again = fd.load(tmp_path)
    assert_same_bits(again, dit)
    assert again.codec == dit.codec
    assert_same_bits(again.flexify((2, 4)), dit.flexify((2, 4)))


def test_a_trained_model_samples_the_same_after_a_save(trained: fd.FlexiDiT, tmp_path: Path) -> None:
    trained.save(tmp_path)
    again = fd.load(str(tmp_path))
    assert_same_bits(again, trained)
    np.testing.assert_array_equal(again.sample(LABELS, **QUICK), trained.sample(LABELS, **QUICK))


def test_load_takes_a_run_or_one_of_its_steps(smoke_run: Path, trained: fd.FlexiDiT) -> None:
    assert_same_bits(fd.load(smoke_run / "checkpoints" / "12"), trained)
    assert fd.load(smoke_run / "checkpoints" / "8").patches == (P2, P4)


def test_load_refusals(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    with pytest.raises(fd.UserError, match=r"nowhere does not exist; give a run's folder, a saved model or a DiT"):
        fd.load("nowhere")
    with pytest.raises(fd.UserError, match=r" is a model of 4 heads, but num_heads=5; leave that out$"):
        fd.load(GOLDEN, num_heads=5)
    dit.save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for text, message in (
        (json.dumps({**config, "format": "other/2"}), r"is not a model saved by this version \(format 'other/2'\)$"),
        (json.dumps(config)[:50], r"/config\.json is not valid JSON"),
        ("[]", r"is not a model saved by this version|cannot be read"),
    ):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(fd.UserError, match=message):
            fd.load(tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(fd.UserError, match=r"/config\.json cannot be read"):
        fd.load(tmp_path)


def test_a_saved_model_with_missing_or_misshapen_tensors_is_refused(flex: fd.FlexiDiT, tmp_path: Path) -> None:
    gone = {key: value for key, value in flex.params["trunk"].items() if key != "timestep"}
    dataclasses.replace(flex, params={**flex.params, "trunk": gone}).save(tmp_path / "gone")
    with pytest.raises(fd.UserError, match="timestep"):
        fd.load(tmp_path / "gone")
    table = {"table": flex.params["trunk"]["conditioner"]["table"][:, :-1]}
    bent = {**flex.params, "trunk": {**flex.params["trunk"], "conditioner": table}}
    dataclasses.replace(flex, params=bent).save(tmp_path / "bent")
    with pytest.raises(fd.UserError, match="conditioner/table"):
        fd.load(tmp_path / "bent")


def test_save_refuses_where_it_may_not_write(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(fd.UserError, match=r"^cannot write to .*file/below \(Not a directory\)$"):
        dit.save(tmp_path / "file" / "below")


# ---------------------------------------------------------------- What it takes to sample


@pytest.mark.slow
def test_nothing_is_loaded_before_it_is_needed(smoke_run: Path, tmp_path: Path) -> None:
    """Flags want no jax; sampling, by the API or as a job, neither TensorFlow nor torch nor what data are read with.

    Training loads TensorFlow when it begins, and not to be explained or refused.
    """
    digits = ROOT / "configs" / "digits.py"
    code = f"""
import sys
import flexidit_jax as fd
from flexidit_jax.main import main

def loaded(*names):
    return sorted({{*names}} & set(sys.modules))

print(main(["--help"]), main(["--config={digits}", "--mode=sampel"]), loaded("jax"))
flex = fd.load({str(GOLDEN)!r}).flexify((2, 4))
flex.sample([1, 2, 3], steps=2, schedule="2:2", guidance=1.0, decode=False, progress=False)
flex.flops(steps=4, budget=0.5)
status = main(["--config={digits}:smoke", "--mode=sample", "--workdir={smoke_run}", "--out={tmp_path / "out"}"])
heavy = "tensorflow", "torch", "tensorflow_datasets", "clu", "grain", "sklearn", "matplotlib", "av"
print(status, loaded(*heavy), loaded("jax"))
print(main(["--config={digits}:smoke", "--help"]), loaded("clu"), loaded("tensorflow"))
"""
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, timeout=300
    )
    assert ended.returncode == 0, ended.stderr
    said = ended.stdout.splitlines()
    assert "0 2 []" in said
    assert "0 [] ['jax']" in said
    assert said[-1] == "0 ['clu'] []"


def test_a_run_s_folder_is_not_saved_into(dit: fd.FlexiDiT, tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(fd.UserError, match=r"is the folder of a training run; save into another$"):
        dit.save(tmp_path)
    assert not (tmp_path / "config.json").exists()


@pytest.mark.parametrize("name", ["file/below.safetensors", "file/below"])
def test_export_refuses_where_it_may_not_write(dit: fd.FlexiDiT, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(fd.UserError, match=r"^cannot write to "):
        dit.export(tmp_path / name)


def test_devices_and_adapters_are_read_when_a_model_is_made(flex: fd.FlexiDiT) -> None:
    made = dataclasses.replace(flex, devices=np.int64(1), merge_adapters=np.bool_(False))
    assert (made.devices, made.merge_adapters) == (1, False) and type(made.devices) is int
    for words, message in (
        ({"devices": None}, r"^devices must be int, got None$"),
        ({"devices": 1.5}, r"^devices must be int, got 1\.5$"),
        ({"merge_adapters": "no"}, r"^merge_adapters must be bool, got 'no'$"),
    ):
        with pytest.raises(fd.UserError, match=message):
            dataclasses.replace(flex, **words)
