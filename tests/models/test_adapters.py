"""Adapters per patch size: the base stays the base, to the bit; merging changes cost, not output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

import flexidit_jax as fd
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import flatten
from flexidit_jax.common.types import Params
from flexidit_jax.models.adapters import LAYERS, fresh, merged
from flexidit_jax.models.flexify import adapter_rank, at, flexify, split_frozen

Golden = dict[str, np.ndarray]
P2, P4, P8 = (1, 2, 2), (1, 4, 4), (1, 8, 8)
WORDS = {"steps": 4, "schedule": "4:2,2:2", "guidance": 1.0}


def shaken(flex: fd.FlexiDiT) -> fd.FlexiDiT:
    """Every leaf of every mode moved off zero."""
    rng = np.random.default_rng(0)
    modes = jax.tree.map(lambda leaf: leaf + 0.05 * rng.normal(size=leaf.shape).astype("f"), flex.params["modes"])
    return replace(flex, params={**flex.params, "modes": modes})


@pytest.fixture(scope="module")
def adapted(dit: fd.FlexiDiT) -> fd.FlexiDiT:
    return shaken(dit.flexify((2, 4), adapters=8))


def test_the_base_mode_is_the_base_model_to_the_bit(dit: fd.FlexiDiT, adapted: fd.FlexiDiT, golden: Golden) -> None:
    base = dit.predict(golden["x"], golden["t"], golden["y"])
    ours = adapted.predict(golden["x"], golden["t"], golden["y"], patch=2)
    np.testing.assert_array_equal(ours.output, base.output)
    np.testing.assert_array_equal(ours.variance, base.variance)


def test_merged_equals_unmerged(adapted: fd.FlexiDiT) -> None:
    beside = replace(adapted, merge_adapters=False)
    ours = adapted.sample([1, 2], **WORDS, decode=False, progress=False)
    theirs = beside.sample([1, 2], **WORDS, decode=False, progress=False)
    assert 0 < np.abs(ours - theirs).max() <= 1e-5 * np.abs(ours).max()  # two ways of computing the same
    weak = 2 * 4 * 3 * 8 * 64 * 16  # two per MAC, N tokens, blocks, rank, width, sum of (d_in + d_out) / d
    assert beside.flops(**WORDS).total - adapted.flops(**WORDS).total == 2 * weak
    assert beside.sampling_bytes < adapted.sampling_bytes


def test_adapters_of_weights_on_the_host_are_merged_there(adapted: fd.FlexiDiT) -> None:
    host, device = (
        flatten(merged(at(tree, (1, 4, 4)))["blocks"]) for tree in (jax.device_get(adapted.params), adapted.params)
    )
    kernels = [f"{part}/{layer}/kernel" for part, layer in LAYERS]
    assert {type(host[path]) for path in kernels} == {np.ndarray}
    for path in kernels:
        np.testing.assert_allclose(host[path], device[path], atol=1e-6)


def test_an_adapter_starts_as_no_change(dit: fd.FlexiDiT) -> None:
    params = dit.flexify((2, 4), adapters=8).params
    plain = at(params, (1, 4, 4))
    shared = at(dit.flexify((2, 4)).params, (1, 4, 4))
    np.testing.assert_allclose(plain["embed"]["kernel"], shared["embed"]["kernel"], atol=1e-6)
    assert adapter_rank(params) == 8 and adapter_rank(dit.flexify((2, 4)).params) is None
    for part, layer in LAYERS:
        assert not np.any(plain["blocks"][part][layer]["lora_b"])
        assert np.std(plain["blocks"][part][layer]["lora_a"]) > 0.01


def test_every_block_of_every_layer_draws_from_its_own_unit_normal_over_its_inputs(dit: fd.FlexiDiT) -> None:
    drawn, plain = fresh(at(dit.params, (1, 2, 2)), 8, (1, 4, 4))["blocks"], at(dit.params, (1, 2, 2))["blocks"]
    seen = set()
    for part, layer in LAYERS:
        a = np.asarray(drawn[part][layer]["lora_a"])
        depth, d_in, _ = plain[part][layer]["kernel"].shape
        assert a.shape == (depth, d_in, 8)
        assert np.std(a) * d_in**0.5 == pytest.approx(1, abs=0.06), layer  # of 1536 numbers or more: three deviations
        assert abs(a.mean()) * d_in**0.5 < 0.08, layer
        seen |= {block.tobytes() for block in a}
    assert len(seen) == len(LAYERS) * 3


def drawn(params: Params) -> dict[str, np.ndarray]:
    """Every `lora_a` of a stored tree by its path."""
    return {path: np.asarray(leaf) for path, leaf in flatten(params["modes"]).items() if path.endswith("/lora_a")}


def test_parameters_and_average_get_the_same_adapters(dit: fd.FlexiDiT) -> None:
    plain = at(dit.params, P2)
    jax.tree.map(np.testing.assert_array_equal, fresh(plain, 4, P4), fresh(plain, 4, P4))
    average = jax.tree.map(lambda leaf: 0.9 * leaf, plain)
    compiled = jax.jit(lambda params: flexify(params, [P2, P4], 4))(average)  # as a run passes into its stage
    jax.tree.map(np.testing.assert_array_equal, drawn(flexify(plain, [P2, P4], 4)), drawn(compiled))


def test_no_two_modes_and_no_two_layers_share_a_draw(dit: fd.FlexiDiT) -> None:
    tall, wide = (1, 4, 2), (1, 2, 4)  # the same sides in another order
    found = drawn(flexify(at(dit.params, P2), [P2, P4, P8, tall, wide], 4))
    assert len(found) == 4 * len(LAYERS)
    numbers = np.stack([leaf[:, :64].ravel() for leaf in found.values()])  # fc2 reads more features than the others
    assert np.abs(np.corrcoef(numbers) - np.eye(len(found))).max() < 0.2  # 768 numbers each


def test_a_draw_is_the_modes_own_whatever_others_there_are(dit: fd.FlexiDiT) -> None:
    plain = at(dit.params, P2)
    alone, among = (drawn(flexify(plain, patches, 4)) for patches in ([P2, P8], [P2, P4, P8]))
    assert alone
    for path, leaf in alone.items():
        np.testing.assert_array_equal(leaf, among[path])


def test_the_base_is_frozen(adapted: fd.FlexiDiT) -> None:
    trained, frozen = split_frozen(adapted.params)
    assert set(trained) == {"modes"} and trained["modes"]["1x2x2"] == {}
    assert set(frozen) == {"trunk", "tokens"}
    assert split_frozen(flexify(at(adapted.params, (1, 2, 2)), [(1, 2, 2), (1, 4, 4)]))[1] == {}


def test_adapters_travel_by_themselves(adapted: fd.FlexiDiT, dit: fd.FlexiDiT, tmp_path: Path) -> None:
    adapted.save(tmp_path / "all")
    adapted.save(tmp_path / "own", adapters_only=True)
    sizes = [(tmp_path / name / "model.safetensors").stat().st_size for name in ("own", "all")]
    assert sizes[0] < 0.6 * sizes[1]
    again = fd.load(tmp_path / "own", base=dit)
    jax.tree.map(np.testing.assert_array_equal, again.params, adapted.params)
    with pytest.raises(UserError, match="holds adapters only; pass the model they were made for as base="):
        fd.load(tmp_path / "own")
    embed = dit.params["tokens"]["embed"]
    other = {**dit.params, "tokens": {**dit.params["tokens"], "embed": {**embed, "bias": embed["bias"] + 1e-6}}}
    with pytest.raises(UserError, match=r"was made for another base model \(fingerprint \w{12}, base= has \w{12}\)"):
        fd.load(tmp_path / "own", base=replace(dit, params=other))
    with pytest.raises(UserError, match="no adapters to save by themselves"):
        dit.save(tmp_path / "none", adapters_only=True)
    assert not (tmp_path / "none").exists()
