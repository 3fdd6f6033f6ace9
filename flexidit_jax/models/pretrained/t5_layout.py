"""The file of a T5 v1.1 or UMT5 -> the encoder of the sizes that its tensors have, its parameters.

Layouts are that of the transformers library, and the Wan repository's names of a UMT5.
"""

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
TABLE = "layer.0.SelfAttention.relative_attention_bias.weight"
OUTSIDE = {
    "tokens": "shared.weight",
    "bias": f"{BLOCKS}0.{TABLE}",
    "norm/scale": "encoder.final_layer_norm.weight",
}
#: a part of a name in the Wan repository -> in the transformers library
REPOSITORY = {
    r"^token_embedding\.": "shared.",
    r"^norm\.": "encoder.final_layer_norm.",
    r"^blocks\.": BLOCKS,
    r"\.attn\.": ".layer.0.SelfAttention.",
    r"\.pos_embedding\.embedding\.": ".layer.0.SelfAttention.relative_attention_bias.",
    r"\.norm1\.": ".layer.0.layer_norm.",
    r"\.norm2\.": ".layer.1.layer_norm.",
    r"\.ffn\.gate\.0\.": ".layer.1.DenseReluDense.wi_0.",
    r"\.ffn\.fc1\.": ".layer.1.DenseReluDense.wi_1.",
    r"\.ffn\.fc2\.": ".layer.1.DenseReluDense.wo.",
}
#: the same tensor as `shared.weight`, beside it or instead of it
TIED = "encoder.embed_tokens.weight"
#: of a whole T5, what writes
WRITES = r"(^|\.)(decoder\.(block|final|embed)|lm_head\.)"
NETWORKS = (
    Network(KIND, OUTSIDE["bias"], ("encoder", "shared"), unread=WRITES),
    Network(KIND, "blocks.0.pos_embedding.embedding.weight", ("token_embedding", "blocks", "norm")),
)
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
    tables = sum(name.endswith(TABLE) and name.startswith(BLOCKS) for name in state)
    own_tables = tables > 1 or config.get("model_type") == "umt5"
    _check_kind(state, config, "umt5" if own_tables else "t5")
    telling = [published_name(path) for path in ("tokens", "bias", "block_0/query/kernel", "block_0/wi_0/kernel")]
    if missing := [name for name in telling if name not in state]:
        raise UserError(f"not a state dict of a {KIND}: missing {', '.join(missing)}; {INSTEAD}")
    shapes = {name: state[name]().shape for name in telling}
    if wrong := [f"{name} is {list(shape)}" for name, shape in shapes.items() if len(shape) != 2]:
        raise UserError(f"not a state dict of a {KIND}: {', '.join(wrong)}")
    (words, width), (_, heads), (inner, _), (hidden, _) = shapes.values()
    if not heads or inner % heads:
        raise UserError(f"{telling[2]} has {inner} rows, which {heads} heads do not divide")
    depth = depth_of(state, BLOCKS)
    model = T5Encoder(words, width, depth, heads, inner // heads, hidden, own_tables=own_tables)
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
    if path.startswith("bias_"):
        return f"{BLOCKS}{path.removeprefix('bias_')}.{TABLE}"
    block, part, _ = path.split("/")
    return f"{BLOCKS}{block.removeprefix('block_')}.{WITHIN[part]}.weight"


def _untied(state: Unread) -> Unread:
    """With the names of the transformers library, and the one of the embedding that is read here."""
    if NETWORKS[1].mark in state:
        state = {_of_library(name): read for name, read in state.items()}
    there = {name: read for name, read in state.items() if name != TIED}
    return there if TIED not in state else {OUTSIDE["tokens"]: state[TIED]} | there


@cache
def _shapes(model: T5Encoder) -> dict[str, tuple[int, ...]]:
    return shapes_of(model, jnp.zeros((1, 1), jnp.int32), jnp.ones((1, 1), bool))


def _expected(model: T5Encoder) -> dict[str, tuple[int, ...]]:
    return named_shapes(_shapes(model), published_name)


def _of_library(name: str) -> str:
    for theirs, other in REPOSITORY.items():
        name = re.sub(theirs, other, name)
    return name


def _check_kind(state: Mapping[str, Any], config: Mapping[str, Any], kind: str) -> None:
    """Refuses relatives of T5 v1.1 by what their tensors are called and their configs say.

    Args:
      kind: what the config must call it.

    Raises:
      UserError: T5 v1.0, or other activations and buckets.
    """
    if any(re.search(r"DenseReluDense\.wi\.", name) for name in state) or config.get("feed_forward_proj") == "relu":
        raise UserError(f"it is a T5 v1.0, whose MLPs have no gate; {INSTEAD}")
    expected = {
        "model_type": kind,
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
