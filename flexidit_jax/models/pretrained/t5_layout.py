"""T5's file, as the transformers library has it -> the encoder of the sizes that its tensors have, its parameters."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.tensor_files import misnamed, told
from flexidit_jax.common.torch_files import Unread
from flexidit_jax.common.trees import unflatten
from flexidit_jax.common.types import Params
from flexidit_jax.common.weights import Network
from flexidit_jax.models.pretrained.published import depth_of, named_shapes, ours, shapes_of
from flexidit_jax.models.pretrained.t5 import BUCKETS, T5Encoder

KIND = "T5 encoder"
BLOCKS = "encoder.block."
#: our name within a block -> published
WITHIN = {
    "norm1": "layer.0.layer_norm",
    "query": "layer.0.SelfAttention.q",
    "key": "layer.0.SelfAttention.k",
    "value": "layer.0.SelfAttention.v",
    "out": "layer.0.SelfAttention.o",
    "norm2": "layer.1.layer_norm",
    **{name: f"layer.1.DenseReluDense.{name}" for name in ("wi_0", "wi_1", "wo")},
}
OUTSIDE = {
    "tokens": "shared.weight",
    "bias": f"{BLOCKS}0.layer.0.SelfAttention.relative_attention_bias.weight",
    "norm/scale": "encoder.final_layer_norm.weight",
}
#: the same tensor as `shared.weight`, beside it or instead of it
TIED = "encoder.embed_tokens.weight"
#: of a whole T5, what writes
WRITES = r"(^|\.)(decoder\.(block|final|embed)|lm_head\.)"
NETWORK = Network(KIND, OUTSIDE["bias"], ("encoder", "shared"), unread=WRITES)
INSTEAD = "a T5 v1.1 would do, such as google/t5-v1_1-xxl or the text_encoder folder of a PixArt"


def described(state: Unread, config: Mapping[str, Any]) -> T5Encoder:
    """The encoder that a state dict is of. All names are looked at, and few tensors read.

    Args:
      state: names -> what reads each tensor.
      config: the `config.json` of the transformers library; may be empty, as tensors tell all sizes.

    Raises:
      UserError: another kind of T5, missing or extra tensors, or a config that says otherwise.
    """
    state = _untied(state)
    _check_kind(state, config)
    telling = [published_name(path) for path in ("tokens", "bias", "block_0/query/kernel", "block_0/wi_0/kernel")]
    if missing := [name for name in telling if name not in state]:
        raise UserError(f"not a state dict of a {KIND}: missing {', '.join(missing)}; {INSTEAD}")
    shapes = {name: state[name]().shape for name in telling}
    if wrong := [f"{name} is {list(shape)}" for name, shape in shapes.items() if len(shape) != 2]:
        raise UserError(f"not a state dict of a {KIND}: {', '.join(wrong)}")
    (words, width), (_, heads), (inner, _), (hidden, _) = shapes.values()
    if not heads or inner % heads:
        raise UserError(f"{telling[2]} has {inner} rows, which {heads} heads do not divide")
    model = T5Encoder(words, width, depth_of(state, BLOCKS), heads, inner // heads, hidden)
    _check_sizes(model, config)
    if problems := misnamed(_expected(model), state):
        raise UserError(f"not a state dict of a {KIND}: {told(problems)}")
    return model.clone(eps=config.get("layer_norm_epsilon", T5Encoder.eps))


def read_t5(model: T5Encoder, state: Unread, place: Callable[[str, np.ndarray], Any]) -> Params:
    """The parameters of the encoder that a state dict is of, read tensor by tensor.

    Args:
      place: a path and its array, of any float type with the axes in our order, -> the leaf to keep.

    Raises:
      UserError: a misshapen tensor.
    """
    state, expected = _untied(state), _expected(model)

    def leaf(path: str) -> Any:
        name = published_name(path)
        array = state[name]()
        if array.shape != expected[name]:
            raise UserError(f"{name} is {list(array.shape)} instead of {list(expected[name])}")
        return place(path, ours(path, array))

    return unflatten({path: leaf(path) for path in _shapes(model)})


def published_name(path: str) -> str:
    """Our path `block_3/query/kernel` as `encoder.block.3.layer.0.SelfAttention.q.weight`."""
    if path in OUTSIDE:
        return OUTSIDE[path]
    block, part, _ = path.split("/")
    return f"{BLOCKS}{block.removeprefix('block_')}.{WITHIN[part]}.weight"


def _untied(state: Unread) -> Unread:
    """With the one name of the embedding that is read here."""
    there = {name: read for name, read in state.items() if name != TIED}
    return there if TIED not in state else {OUTSIDE["tokens"]: state[TIED]} | there


@cache
def _shapes(model: T5Encoder) -> dict[str, tuple[int, ...]]:
    return shapes_of(model, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))


def _expected(model: T5Encoder) -> dict[str, tuple[int, ...]]:
    return named_shapes(_shapes(model), published_name)


def _check_kind(state: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    """Refuses relatives of T5 v1.1 by what their tensors are called and their configs say.

    Raises:
      UserError: UMT5, T5 v1.0, or other activations and buckets.
    """
    tables = [name for name in state if name.endswith("relative_attention_bias.weight") and name.startswith(BLOCKS)]
    if len(tables) > 1 or config.get("model_type") == "umt5":
        raise UserError(f"it is a UMT5, each block of which has its own table of biases; {INSTEAD}")
    if any(re.search(r"DenseReluDense\.wi\.", name) for name in state) or config.get("feed_forward_proj") == "relu":
        raise UserError(f"it is a T5 v1.0, whose MLPs have no gate; {INSTEAD}")
    expected = {
        "model_type": "t5",
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": BUCKETS,
        "relative_attention_max_distance": 128,
    }
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise UserError(f"its config says {key}={config[key]!r}, not {value!r}; {INSTEAD}")


def _check_sizes(model: T5Encoder, config: Mapping[str, Any]) -> None:
    sizes = {
        "vocab_size": model.words,
        "d_model": model.width,
        "num_layers": model.depth,
        "num_heads": model.heads,
        "d_kv": model.size,
        "d_ff": model.hidden,
    }
    if wrong := [f"{key}={config[key]!r}, not {size}" for key, size in sizes.items() if config.get(key, size) != size]:
        raise UserError(f"its config says {' and '.join(wrong)} as its tensors do; it is of another model")
