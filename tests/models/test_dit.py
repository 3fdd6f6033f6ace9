"""The plain DiT: initialisation, numerics, compilation variants, building and describing."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import flatten
from flexidit_jax.common.types import Array, Params, Prediction
from flexidit_jax.models.build import attention_of, build_dit, describe, init, recorded_dit
from flexidit_jax.models.conditioning.condition import Condition
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.layers import ModulatedNorm

WIDTH, DEPTH, CLASSES = 32, 2, 9
SECTION: dict[str, Any] = {
    "latent": (1, 8, 8, 4),
    "conditioner": {"name": "classes", "classes": CLASSES},
    "width": WIDTH,
    "depth": DEPTH,
    "num_heads": 2,
}
#: quick to compile; what is tested here does not depend on how well


@partial(jax.jit, static_argnums=0)
def forward(model: DiT, params: Params, x: Array, t: Array, cond: Condition) -> Prediction:
    return model.apply({"params": params}, x, t, cond)


@pytest.fixture(scope="module")
def model() -> DiT:
    return build_dit(**SECTION)


@pytest.fixture(scope="module")
def fresh(model: DiT) -> Params:
    return jax.tree.map(np.asarray, jax.jit(partial(init, model))(jax.random.key(0)))


@pytest.fixture(scope="module")
def params(fresh: Params) -> Params:
    """The same shapes with nothing left at zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.normal(0, 0.2, leaf.shape).astype(np.float32), fresh)


@pytest.fixture(scope="module")
def inputs(model: DiT) -> tuple[Array, Array, Condition]:
    x = np.random.default_rng(1).normal(size=(2, *model.latent)).astype(np.float32)
    return x, np.array([3, 900]), model.conditioner.parse([0, None])


@pytest.fixture(scope="module")
def reference(model: DiT, params: Params, inputs: tuple[Array, Array, Condition]) -> Prediction:
    return forward(model, params, *inputs)


def deviation(ours: Any, reference: Any) -> float:
    """Largest difference over all leaves, each of its largest value."""
    assert jax.tree.structure(ours) == jax.tree.structure(reference)
    pairs = zip(map(np.asarray, jax.tree.leaves(ours)), map(np.asarray, jax.tree.leaves(reference)), strict=True)
    return max(float(np.abs(a - b).max() / np.abs(b).max()) for a, b in pairs)


def test_a_fresh_model_outputs_zero(model: DiT, fresh: Params, inputs: tuple, reference: Prediction) -> None:
    out = forward(model, fresh, *inputs)
    assert all(part.shape == inputs[0].shape for part in out)
    assert not np.any(out.output)
    assert not np.any(out.variance)
    assert np.abs(reference.output).max() > 0.1  # and a trained one does not


def test_a_fresh_block_is_the_identity(fresh: Params) -> None:
    """adaLN-Zero: not only the last layer is zero, every gate is."""
    flat = flatten(fresh)
    zero = {name for name, leaf in flat.items() if not leaf.any()}
    assert {name for name in zero if name.endswith("kernel")} == {
        "blocks/modulation/kernel",
        "final/modulation/kernel",
        "deembed/kernel",
    }
    assert {name for name in flat if name.endswith("bias")} == {name for name in zero if name.endswith("bias")}


def test_initialisation(fresh: Params) -> None:
    d, patch = WIDTH, 2 * 2 * 4
    uniform = {  # name: fan in + fan out
        "blocks/attention/qkv/kernel": d + 3 * d,  # fused
        "blocks/attention/proj/kernel": d + d,
        "blocks/mlp/fc1/kernel": d + 4 * d,
        "blocks/mlp/fc2/kernel": 4 * d + d,
        "embed/kernel": patch + d,  # of the [d, p p C] view
    }
    flat = flatten(fresh)
    for name, fans in uniform.items():
        limit = np.sqrt(6 / fans)
        assert 0.97 * limit < np.abs(flat[name]).max() <= limit, name
        assert abs(flat[name].std() / (limit / np.sqrt(3)) - 1) < 0.08, name
        assert abs(flat[name].mean()) < 0.15 * limit, name
    for name in ("timestep/fc1/kernel", "timestep/fc2/kernel", "conditioner/table"):
        assert abs(flat[name].std() / 0.02 - 1) < 0.1, name
        assert np.abs(flat[name]).max() > 0.04, name  # normal: a uniform of this deviation ends at 0.035
    zero = {name for name, leaf in flat.items() if not leaf.any()}
    assert flat.keys() == zero | uniform.keys() | {"timestep/fc1/kernel", "timestep/fc2/kernel", "conditioner/table"}
    for name, leaf in flat.items():
        assert leaf.dtype == np.float32
        if name in uniform and name.startswith("blocks/"):
            assert leaf.shape[0] == DEPTH
            assert np.abs(leaf[0] - leaf[1]).max() > 0.1, name  # every block has its own


def test_unrolling_changes_nothing(model: DiT, params: Params, inputs: tuple, reference: Prediction) -> None:
    assert deviation(forward(model.clone(unroll=DEPTH), params, *inputs), reference) < 2e-6


def test_blocks_run_in_order(model: DiT, params: Params, inputs: tuple, reference: Prediction) -> None:
    swapped = {**params, "blocks": jax.tree.map(lambda leaf: leaf[::-1], params["blocks"])}
    assert deviation(forward(model, swapped, *inputs), reference) > 1e-2


def test_one_time_for_the_whole_batch(model: DiT, params: Params, inputs: tuple) -> None:
    x, _, cond = inputs
    expected = forward(model, params, x, np.array([900, 900]), cond)
    assert deviation(forward(model, params, x, np.array([900]), cond), expected) < 2e-6


def test_rematerialisation_changes_neither_value_nor_gradient(model: DiT, params: Params, inputs: tuple) -> None:
    @partial(jax.jit, static_argnums=0)
    def value_and_gradient(model: DiT, params: Params) -> tuple[Array, Params]:
        def loss(params: Params) -> Array:
            return sum(jnp.square(part).mean() for part in model.apply({"params": params}, *inputs))

        return jax.value_and_grad(loss)(params)

    def saves_memory(model: DiT) -> bool:
        return "remat" in str(value_and_gradient.trace(model, params).jaxpr)

    plain = value_and_gradient(model, params)
    assert not saves_memory(model)
    assert np.abs(np.asarray(plain[0])) > 0.01
    for remat in ("dots", "full"):
        assert saves_memory(model.clone(remat=remat)), remat
        assert deviation(value_and_gradient(model.clone(remat=remat), params), plain) < 2e-5, remat


def test_bfloat16_stays_close(model: DiT, params: Params, inputs: tuple, reference: Prediction) -> None:
    out = forward(model.clone(dtype="bfloat16"), params, *inputs)
    assert [part.dtype for part in out] == [jnp.float32] * 2
    assert 1e-4 < deviation(out, reference) < 3e-2  # of 8 bits; and they were used


def test_the_residual_stream_has_a_dtype_of_its_own(
    model: DiT, params: Params, inputs: tuple, reference: Prediction
) -> None:
    def stream(model: DiT) -> set[str]:
        """What leaves the scan of blocks."""
        (scan,) = (eqn for eqn in forward.trace(model, params, *inputs).jaxpr.eqns if eqn.primitive.name == "scan")
        return {out.aval.dtype.name for out in scan.outvars}

    mixed = model.clone(dtype="bfloat16")
    narrow = mixed.clone(residual="bfloat16")
    assert [stream(one) for one in (model, mixed, narrow)] == [{"float32"}, {"float32"}, {"bfloat16"}]
    assert 1e-4 < deviation(forward(narrow, params, *inputs), reference) < 3e-2
    assert deviation(forward(narrow, params, *inputs), forward(mixed, params, *inputs)) > 1e-3
    grads = jax.grad(lambda tree: forward(narrow, tree, *inputs).output.sum())(params)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_norms_take_and_give_what_products_read(dtype: str) -> None:
    """Statistics are float32, rounded once: x lies so far from 0 that bfloat16 sums would not find its variance."""
    x = 100 + jax.random.normal(jax.random.key(0), (2, 3, 64))
    shift, scale = jax.random.normal(jax.random.key(1), (2, 2, 64))
    exact = ModulatedNorm(jnp.dtype("float32")).apply({}, x.astype(dtype).astype(jnp.float32), shift, scale)
    found = ModulatedNorm(jnp.dtype(dtype)).apply({}, x.astype(dtype), shift, scale)
    assert found.dtype == dtype
    assert jnp.array_equal(found, exact.astype(dtype))


def test_float32_takes_no_shortcut(model: DiT, params: Params, inputs: tuple) -> None:
    """Every matrix product of a float32 model asks for the highest precision; accelerators round otherwise."""
    lowered = jax.jit(forward.__wrapped__, static_argnums=0).lower(model, params, *inputs).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    assert len(products) >= 9
    assert [line for line in products if "precision = [HIGHEST, HIGHEST]" not in line] == []


def test_without_a_learned_variance(model: DiT) -> None:
    narrow = model.clone(learn_variance=False)
    x, t = narrow.example(3)
    out, variables = jax.eval_shape(
        lambda: narrow.init_with_output(jax.random.key(0), x, t, narrow.conditioner.parse([0, 1, 2]))
    )
    assert out.variance is None
    assert out.output.shape == (3, 1, 8, 8, 4)
    assert variables["params"]["deembed"]["kernel"].shape == (WIDTH, 1, 2, 2, 4)


def test_at_reads_another_patch(model: DiT) -> None:
    wide = model.at((1, 4, 4))
    assert (wide.patch, wide.base_patch) == ((1, 4, 4), (1, 2, 2))
    assert wide.at((1, 2, 2)) == model != wide


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {
            "latent": (4, 8, 8, 3),
            "patch": (2, 2, 4),
            "conditioner": {"name": "classes", "classes": 5, "drop_rate": 0.2},
            "width": 24,
            "depth": 3,
            "num_heads": 3,
            "mlp_ratio": 3,
            "learn_variance": False,
            "dtype": "bfloat16",
            "residual": "bfloat16",
        },
    ],
)
def test_describe_is_read_back(changes: dict[str, Any]) -> None:
    model = build_dit(**{**SECTION, **changes})
    described = json.loads(json.dumps(describe(model)))
    assert build_dit(**described) == model
    for key, value in changes.items():
        found = {k: described[key][k] for k in value} if isinstance(value, dict) else described[key]
        assert found == (list(value) if isinstance(value, tuple) else value), key
    assert build_dit(**described).at((1, 8, 8)) != model
    assert describe(model.at((4, 8, 8))) == describe(model)  # the patch in use is no part of a description
    assert describe(model.clone(attention="cudnn", remat="dots", unroll=3)) == describe(model)  # nor is the machine


def test_what_a_record_says_of_its_machine_is_not_read(model: DiT) -> None:
    """Not even refused: it may be of a version that had other choices. Keys that came later have their defaults."""
    assert recorded_dit({**SECTION, "attention": "flash", "remat": "all", "unroll": 0}) == model
    with pytest.raises(UserError, match=r"^unknown config key 'model\.atention'; did you mean 'attention'\?$"):
        recorded_dit({**SECTION, "atention": "xla"})
    with pytest.raises(UserError, match=r"^config key 'model' must be a section, got None$"):
        recorded_dit(None)


def test_attention_of_this_machine(model: DiT) -> None:
    """What benchmarks write beside their figures."""
    with jax.default_device(jax.devices("cpu")[0]):
        assert attention_of(model) == attention_of(model.clone(attention="xla")) == "xla"
    chip = jax.sharding.AbstractMesh((1,), ("one",), abstract_device=jax.sharding.AbstractDevice("TPU", 1, "tpu"))
    with jax.sharding.use_abstract_mesh(chip):
        assert attention_of(model.clone(dtype="bfloat16")) == "splash"
        assert attention_of(model) == "xla"  # the kernel's backward pass is bfloat16


@pytest.mark.parametrize(
    ("size", "expected"),
    [("S", (384, 12, 6)), ("B", (768, 12, 12)), ("L", (1024, 24, 16)), ("XL", (1152, 28, 16))],
)
def test_sizes(size: str, expected: tuple[int, int, int]) -> None:
    model = build_dit(SECTION["latent"], SECTION["conditioner"], size=size)
    assert (model.width, model.depth, model.num_heads) == expected
    assert model.conditioner.width == expected[0]
    shallow = build_dit(SECTION["latent"], SECTION["conditioner"], size=size, depth=2)
    assert (shallow.width, shallow.depth, shallow.num_heads) == (expected[0], 2, expected[2])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": "M"}, "unknown model.size 'M'; known: S, B, L, XL"),
        ({"depth": None}, "give model.size (S, B, L or XL), or model.width, model.depth and model.num_heads"),
        ({"depth": 0}, "model.depth must be positive, got 0"),
        ({"unroll": 0}, "model.unroll must be positive, got 0"),
        ({"num_heads": 3}, "model.width must be a multiple of 4 and of model.num_heads=3, got 32"),
        ({"width": 18}, "model.width must be a multiple of 4 and of model.num_heads=2, got 18"),
        (
            {"residual": "bfloat16"},
            "model.residual must be one of float32 beside model.dtype='float32', got 'bfloat16'",
        ),
        (
            {"dtype": "bfloat16", "residual": "half"},
            "model.residual must be one of float32, bfloat16 beside model.dtype='bfloat16', got 'half'",
        ),
        ({"dtype": "float16"}, "model.dtype must be one of float32, bfloat16, got 'float16'"),
        ({"attention": "flash"}, "model.attention must be one of auto, xla, cudnn, splash, got 'flash'"),
        ({"remat": "all"}, "model.remat must be one of none, full, dots, got 'all'"),
        ({"latent": (8, 8, 4)}, "model.latent must be (frames, height, width, channels), got (8, 8, 4)"),
        ({"latent": (1, 8, 0, 4)}, "model.latent must be (frames, height, width, channels), got (1, 8, 0, 4)"),
        ({"patch": 3}, "patch 3 does not divide the latent 1x8x8 (frames x height x width)"),
        ({"patch": "2y2"}, "patch '2y2' is not one to three positive integers, such as 4, (2, 4) or '2x4x4'"),
        ({"conditioner": {"name": "clases", "classes": 3}}, "no 'clases' in conditioning/; did you mean 'classes'?"),
        ({"conditioner": {"name": "classes"}}, "config key 'model.conditioner.classes' is missing"),
        (
            {"conditioner": {"name": "classes", "classes": 3, "droprate": 0}},
            "unknown config key 'model.conditioner.droprate'; did you mean 'drop_rate'?",
        ),
    ],
)
def test_build_refuses(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_dit(**{**SECTION, **changes})
    assert str(caught.value) == message


def test_models_can_key_a_cache(model: DiT) -> None:
    """The engine compiles a program per model: equal ones must share it."""
    twin = build_dit(**SECTION)
    assert twin == model
    assert hash(twin) == hash(model)
    assert isinstance(model, nn.Module)
