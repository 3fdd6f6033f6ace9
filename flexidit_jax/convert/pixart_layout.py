"""The published PixArt state dict (alpha and Sigma) <-> plain parameters.

Facts of the layout: as a DiT's (`convert.dit_layout`), with one modulation for all blocks and a table each; k and v of
the text are one linear; `y_embedding`, the features of no text, and `pos_embed` are buffers, which some files lack.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.notes import note
from flexidit_jax.common.tensor_files import misaxed, misnamed, told
from flexidit_jax.common.trees import at_path, put
from flexidit_jax.common.types import Array, Params
from flexidit_jax.common.weights import Network
from flexidit_jax.convert.dit_layout import StateDict, float32, heads_as_wide, stacked
from flexidit_jax.convert.said import Said
from flexidit_jax.models.build import build_dit
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.fold import folded
from flexidit_jax.models.position import position_embedding

NETWORK = Network(
    "PixArt",
    "t_block.1.weight",
    ("x_embedder", "t_embedder", "t_block", "y_embedder", "csize_embedder", "ar_embedder", "blocks", "final_layer"),
)
#: below a block: there are no weights of these, and diffusers has none
REFUSED = {
    "attn.sr": "compresses keys and values",
    "attn.norm": "compresses keys and values",
    "attn.q_norm": "normalises queries and keys",
    "attn.k_norm": "normalises queries and keys",
}
#: of positions: side of the latent in patches over their span
SCALES = (0.5, 1.0, 2.0, 4.0)
#: width of a head of all published models
HEAD = 72
#: tokens of a text where no tensor tells: alpha's models with micro-conditions have 120, all others at most 300
LENGTHS = {True: 120, False: 300}

#: path of a linear of ours -> its published name
OUTSIDE = {
    "timestep/fc1": "t_embedder.mlp.0",
    "timestep/fc2": "t_embedder.mlp.2",
    "projection/blocks": "t_block.1",
    "conditioner/fc1": "y_embedder.y_proj.fc1",
    "conditioner/fc2": "y_embedder.y_proj.fc2",
}
#: the same where there are micro-conditions
MICRO = {
    "conditioner/resolution_embedding/fc1": "csize_embedder.mlp.0",
    "conditioner/resolution_embedding/fc2": "csize_embedder.mlp.2",
    "conditioner/aspect_ratio_embedding/fc1": "ar_embedder.mlp.0",
    "conditioner/aspect_ratio_embedding/fc2": "ar_embedder.mlp.2",
}
#: the same below `blocks` and `blocks.<i>`
BLOCK = {
    "attention/qkv": "attn.qkv",
    "attention/proj": "attn.proj",
    "cross_attention/q": "cross_attn.q_linear",
    "cross_attention/kv": "cross_attn.kv_linear",
    "cross_attention/proj": "cross_attn.proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}
#: the features of no text
NULL = "y_embedder.y_embedding"


def read_pixart(state: StateDict, said: Said | None = None) -> tuple[DiT, Params]:
    """A state dict of the published layout -> the model it describes and its plain parameters.

    Tensors are read one by one: besides the parameters no more than one is held.

    Args:
      state: arrays by name, of any float type.
      said: `num_heads` is wanted where heads are not 72 wide, `input_size` and `interpolation_scale` where `pos_embed`
        is missing; `length` holds where no tensor tells; with a `null` other than "stored" what stands for no text is
        left out.

    Raises:
      UserError: missing, extra or misshapen keys (all that are missing or extra named), or a model that the tensors
        alone do not tell.
    """
    said = said or Said()
    for key in state:
        for part, does in REFUSED.items():
            if f".{part}." in key:
                raise UserError(f"{key} is of a PixArt that {does}, which is not read; one without would do")
    stored = NULL in state and said.null in (None, "stored")
    if said.null == "stored" and not stored:
        raise UserError(f"null='stored', but there is no {NULL.rpartition('.')[2]}; null='empty' reads an empty text")
    model = _model_of(state, said, stored)
    shapes = _shapes(model)
    shapes = {key: shape for key, shape in shapes.items() if key != "pos_embed" or key in state}
    if problems := misnamed([*shapes, NULL] if NULL in state else shapes, state):
        raise UserError("not a PixArt state dict: " + told(problems))
    model = _with_positions(model, state, said.interpolation_scale)

    def take(name: str) -> np.ndarray:
        array = state[name]
        if array.shape != shapes[name]:
            raise UserError(f"not a PixArt state dict: {name} is {list(array.shape)} instead of {list(shapes[name])}")
        return float32(array)

    def linear(name: str) -> Params:
        return {"kernel": take(f"{name}.weight").T, "bias": take(f"{name}.bias")}

    def layers(name: str) -> Params:
        return {
            "kernel": stacked(lambda i: take(f"blocks.{i}.{name}.weight").T, model.depth),
            "bias": stacked(lambda i: take(f"blocks.{i}.{name}.bias"), model.depth),
        }

    tables = stacked(lambda i: take(f"blocks.{i}.scale_shift_table"), model.depth)
    params: Params = {"blocks": {"modulation": {"table": tables}}}
    for path, name in _outside(model.conditioner.resolution is not None).items():
        put(params, path, linear(name))
    for path, name in BLOCK.items():
        put(params["blocks"], path, layers(name))
    cross = params["blocks"]["cross_attention"]
    both = {leaf: np.split(array, 2, axis=-1) for leaf, array in cross.pop("kv").items()}
    cross |= {part: {leaf: np.ascontiguousarray(both[leaf][i]) for leaf in both} for i, part in enumerate("kv")}
    if stored:
        params["conditioner"]["null"] = take(NULL)
    last = linear("final_layer.linear")
    return model, params | {
        "embed": {
            "kernel": take("x_embedder.proj.weight").transpose(2, 3, 1, 0)[None],
            "bias": take("x_embedder.proj.bias"),
        },
        "final": {"modulation": {"table": take("final_layer.scale_shift_table")}},
        "deembed": {
            "kernel": last["kernel"].reshape(model.width, *model.patch, -1),
            "bias": last["bias"].reshape(*model.patch, -1),
        },
    }


def write_pixart(model: DiT, params: Params) -> dict[str, np.ndarray]:
    """Plain parameters -> a state dict of the published layout, float32; the inverse of `read_pixart`.

    Leaves of a FlexiDiT mode are folded into those of the layout (`models.fold`). Features of no text with a mask of
    their own are left out: who reads `y_embedding` reads it by the mask of a caption.

    Raises:
      UserError: a model the layout cannot hold (video, unequal sides, an own modulation in each block, no text).
    """
    frames, ph, pw = model.patch
    if model.latent[0] != 1 or frames != 1 or ph != pw or model.latent[1] != model.latent[2]:
        raise UserError("the published PixArt layout holds square images and square patches only")
    if model.modulation != "single" or model.span is None or "cross_attention" not in params["blocks"]:
        raise UserError("the published PixArt layout holds modulation='single', a span and a text; save() holds others")
    params = folded(params)

    def linear(name: str, layer: Mapping[str, Array]) -> dict[str, np.ndarray]:
        return {f"{name}.weight": float32(layer["kernel"]).T, f"{name}.bias": float32(layer["bias"])}

    state = {
        "pos_embed": _positions(model)[None],
        "x_embedder.proj.weight": float32(params["embed"]["kernel"])[0].transpose(3, 2, 0, 1),
        "x_embedder.proj.bias": float32(params["embed"]["bias"]),
        "final_layer.scale_shift_table": float32(params["final"]["modulation"]["table"]),
    }
    if model.conditioner.null_length and model.conditioner.null_mask == "caption":
        state[NULL] = float32(params["conditioner"]["null"])
    for path, name in _outside(model.conditioner.resolution is not None).items():
        state |= linear(name, at_path(params, path))
    blocks = params["blocks"]
    k, v = blocks["cross_attention"]["k"], blocks["cross_attention"]["v"]
    kv = {leaf: np.concatenate([k[leaf], v[leaf]], axis=-1) for leaf in ("kernel", "bias")}
    blocks = {**blocks, "cross_attention": {**blocks["cross_attention"], "kv": kv}}
    for i in range(model.depth):
        state[f"blocks.{i}.scale_shift_table"] = float32(blocks["modulation"]["table"][i])
        for path, name in BLOCK.items():
            layer = at_path(blocks, path)
            state |= linear(f"blocks.{i}.{name}", {leaf: layer[leaf][i] for leaf in ("kernel", "bias")})
    last = params["deembed"]
    flat = {"kernel": last["kernel"].reshape(model.width, -1), "bias": last["bias"].reshape(-1)}
    state |= linear("final_layer.linear", flat)
    return {name: np.ascontiguousarray(array) for name, array in state.items()}


def _outside(micro: bool) -> dict[str, str]:
    return OUTSIDE | MICRO if micro else OUTSIDE


def _has_micro(state: StateDict) -> bool:
    return any(key.startswith("csize_embedder.") for key in state)


def _positions(model: DiT) -> np.ndarray:
    return position_embedding(model.latent[:3], model.patch, model.base_patch, model.width, model.span)


def _with_positions(model: DiT, state: StateDict, scale: float | None) -> DiT:
    """The model whose positions are those of the file: some p0 that divides the patch, and a scale."""
    if "pos_embed" not in state:
        return model
    found, patch = float32(state["pos_embed"])[0], model.patch[1]
    for side in (p for p in range(patch, 0, -1) if patch % p == 0):
        for known in SCALES:
            read = model.clone(base_patch=(1, side, side), span=model.latent[1] / side / known)
            if np.abs(_positions(read) - found).max() >= 1e-5:
                continue
            if scale not in (None, known):
                raise UserError(f"interpolation_scale is {scale}, but pos_embed holds positions of scale {known}")
            return read
    raise UserError(f"pos_embed holds positions of none of the scales {', '.join(f'{scale:g}' for scale in SCALES)}")


def _model_of(state: StateDict, said: Said, stored: bool) -> DiT:
    """The model a published state dict describes, from the few tensors that tell and what is said.

    Args:
      stored: whether its features of no text are taken.
    """
    input_size, scale = said.input_size, said.interpolation_scale
    telling = {
        "x_embedder.proj.weight": 4,
        "final_layer.linear.weight": 2,
        "y_embedder.y_proj.fc1.weight": 2,
        "blocks.0.mlp.fc1.weight": 2,
        **({name: axes for name, axes in (("pos_embed", 3), (NULL, 2)) if name in state}),
    }
    problems = misaxed(telling, state)
    if problems:
        raise UserError("not a PixArt state dict: " + told(problems))
    width, channels, patch, _ = state["x_embedder.proj.weight"].shape
    if "pos_embed" in state:
        side = round(state["pos_embed"].shape[1] ** 0.5) * patch
        if input_size not in (None, side):
            raise UserError(f"input_size is {input_size}, but pos_embed is of a latent of side {side}")
        input_size = side
    missing = {"input_size": input_size} | ({} if "pos_embed" in state else {"interpolation_scale": scale})
    if lacking := [key for key, value in missing.items() if value is None]:
        raise UserError(
            f"the state dict lacks pos_embed, which tells {' and '.join(lacking)}; say them in a config.json"
            ' beside the file, such as {"input_size": 32, "interpolation_scale": 0.5}, or as arguments so named'
        )
    micro, null = _has_micro(state), len(state[NULL]) if stored else 0
    if not (micro or null or said.length):
        note(
            f"no file says how long texts are: up to {LENGTHS[micro]} tokens are read, as PixArt-Sigma reads them; of a"
            f" PixArt-alpha say length={LENGTHS[True]}"
        )
    return build_dit(
        latent=(1, input_size, input_size, channels),
        conditioner={
            "name": "text",
            "features": state["y_embedder.y_proj.fc1.weight"].shape[1],
            "length": null or said.length or LENGTHS[micro],
            "null_length": null,
            "null_mask": said.null_mask or ("caption" if null else "own"),
            "resolution": (8 * input_size, 8 * input_size) if micro else None,
        },
        patch=patch,
        width=width,
        depth=sum(bool(re.fullmatch(r"blocks\.\d+\.scale_shift_table", key)) for key in state),
        num_heads=heads_as_wide(width, said.num_heads, HEAD, "PixArt"),
        mlp_ratio=max(1, state["blocks.0.mlp.fc1.weight"].shape[0] // width),
        learn_variance=state["final_layer.linear.weight"].shape[0] == 2 * patch * patch * channels,
        modulation="single",
        span=input_size / patch / (scale or 1.0),
    )


def _shapes(model: DiT) -> dict[str, tuple[int, ...]]:
    """Every key of the layout with its shape, for a model."""
    d, p, c, text = model.width, model.patch[1], model.latent[-1], model.conditioner
    hidden, out = model.mlp_ratio * d, p * p * c * (2 if model.learn_variance else 1)
    linears = {
        "t_embedder.mlp.0": (d, 256),
        "t_embedder.mlp.2": (d, d),
        "t_block.1": (6 * d, d),
        "y_embedder.y_proj.fc1": (d, text.features),
        "y_embedder.y_proj.fc2": (d, d),
        "final_layer.linear": (out, d),
    }
    if text.resolution is not None:
        for name in ("csize_embedder", "ar_embedder"):
            linears |= {f"{name}.mlp.0": (d // 3, 256), f"{name}.mlp.2": (d // 3, d // 3)}
    blocks = [(3 * d, d), (d, d), (d, d), (2 * d, d), (d, d), (hidden, d), (d, hidden)]
    shapes: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, (model.latent[1] // p) ** 2, d),
        "x_embedder.proj.weight": (d, c, p, p),
        "x_embedder.proj.bias": (d,),
        "final_layer.scale_shift_table": (2, d),
    }
    if text.null_length:
        shapes[NULL] = (text.null_length, text.features)
    for i in range(model.depth):
        shapes[f"blocks.{i}.scale_shift_table"] = (6, d)
        linears |= {f"blocks.{i}.{name}": shape for name, shape in zip(BLOCK.values(), blocks, strict=True)}
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return shapes
