"""From one pre-trained DiT to a family of plain DiTs, and back to any member of it.

Everything flexible is here. The stored tree has three parts:

    trunk            blocks, timestep, conditioner, final modulation: shared by every mode
    tokens           the underlying embed and de-embed at p' (see models.patch): shared
    modes/<patch>    what belongs to one mode, laid over the plain tree: the patch-size embedding
                     (one vector added to every token), that mode's norm gains and shifts and, with
                     adapters, its own embed and de-embed and its LoRA

and `at` is `trunk + project(tokens, patch) + modes/<patch>`, an ordinary DiT tree. Both functions
are linear in the parameters, so they map an exponential moving average just as well, and `at` is
differentiable, so training calls it inside the loss.

Decision: the paper does not place its patch-size dependent layer norm. DiT's norms have no affine
part, so every mode gets its own gain and shift at each of them, stored as gain - 1 and shift, both
zero at the start: the pre-trained function is kept exactly. A model with a single mode has none of
these leaves, since there is no other mode to tell it from: it *is* the plain DiT.
"""

from __future__ import annotations

from collections.abc import Iterable

import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.build import positive
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, Patch, as_patch, patch_name, short_patch_name
from flexidit_jax.models import adapters as lora
from flexidit_jax.models.patch import (
    lift_deembed,
    lift_embed,
    project_deembed,
    project_embed,
    underlying_patch,
)


def sort_patches(patches: Iterable[Patch]) -> tuple[Patch, ...]:
    """Powerful (small) first; equal volumes in lexicographic order."""
    return tuple(sorted(set(patches), key=lambda patch: (int(np.prod(patch)), patch)))


def check_patches(patches: Iterable[Patch], base: Patch) -> None:
    """Refuses a mode smaller than the pre-trained patch on an axis: there is no pixel left to average over."""
    for patch in patches:
        if any(side < smallest for side, smallest in zip(patch, base, strict=True)):
            raise UserError(
                f"patch {short_patch_name(patch)} is smaller than the pre-trained patch {short_patch_name(base)};"
                " modes must be at least as large on every axis"
            )


def is_flexible(params: Params) -> bool:
    """Whether a tree is in the stored form of this module."""
    return "modes" in params


def patches_of(params: Params) -> tuple[Patch, ...]:
    """The modes of a stored tree, powerful first."""
    return sort_patches(as_patch(name) for name in params["modes"])


def flexify(params: Params, patches: Iterable[Patch], adapters: int | None = None) -> Params:
    """Turns plain DiT parameters into the stored tree of a flexible one.

    At the pre-trained patch the result computes the same function; a larger patch starts from the
    projections of `models.patch`. A stored tree with one mode is taken as the plain DiT it is; one
    that has these very modes already, adapted alike, is returned as it came.

    Args:
      params: plain parameters (random, imported, an EMA), or a stored tree.
      patches: the modes wanted.
      adapters: None shares all weights between the modes (section 3.1); a LoRA rank gives every new
        mode weights of its own and leaves the pre-trained ones alone (section 3.2).

    Raises:
      UserError: a patch smaller than the pre-trained one on an axis, or a tree that has other modes.
    """
    wanted = sort_patches(patches)
    if is_flexible(params):
        present = patches_of(params)
        if present == wanted and (len(present) == 1 or adapters in (None, adapter_rank(params))):
            return params
        if len(present) > 1:
            names = ", ".join(map(short_patch_name, present))
            raise UserError(f"this model already has the modes {names}; flexify the pre-trained model instead")
        params = at(params, present[0])
    embed, deembed = params["embed"], params["deembed"]
    base: Patch = as_patch(embed["kernel"].shape[:3])
    check_patches(wanted, base)
    trunk = {key: value for key, value in params.items() if key not in ("embed", "deembed")}
    depth, width = params["blocks"]["mlp"]["fc2"]["bias"].shape
    if adapters is not None:
        positive("flexify", adapters=adapters)

        def own(patch: Patch) -> Params:
            if patch == base:
                return {}  # the pre-trained mode stays the pre-trained model, to the bit
            return merge(_own_leaves(depth, width), _tokens(params, patch), lora.fresh(params, adapters, patch))

        return {
            "trunk": trunk,
            "tokens": {"embed": embed, "deembed": deembed},
            "modes": {patch_name(patch): own(patch) for patch in wanted},
        }
    return {
        "trunk": trunk,
        "tokens": _tokens(params, underlying_patch(wanted)),
        "modes": {patch_name(patch): _own_leaves(depth, width) if len(wanted) > 1 else {} for patch in wanted},
    }


def at(params: Params, patch: Patch) -> Params:
    """The plain DiT parameters of one mode of a stored tree; differentiable.

    Raises:
      UserError: the tree has no such mode.
    """
    name = patch_name(patch)
    if name not in params["modes"]:
        known = ", ".join(map(short_patch_name, patches_of(params)))
        raise UserError(f"the model has no mode {short_patch_name(patch)}; it has {known}")
    own = params["modes"][name]
    if "embed" in own:  # an adapter mode has its own
        return merge(params["trunk"], own)
    embed, deembed = params["tokens"]["embed"], params["tokens"]["deembed"]
    tokens = {
        "embed": {"kernel": project_embed(embed["kernel"], patch), "bias": embed["bias"]},
        "deembed": {
            "kernel": project_deembed(deembed["kernel"], patch),
            "bias": project_deembed(deembed["bias"], patch),
        },
    }
    return merge(params["trunk"], tokens, own)


def split_frozen(params: Params) -> tuple[Params, Params]:
    """A stored tree as (what is trained, what is frozen); `merge` joins them again.

    With adapters the pre-trained weights are frozen; without, nothing but what stands for no condition, where that is
    data instead of parameters: a leaf `null` of the conditioner.
    """
    if adapter_rank(params) is None:
        conditioner = params["trunk"]["conditioner"]
        if "null" not in conditioner:
            return params, {}
        read = {key: leaf for key, leaf in conditioner.items() if key != "null"}
        trained = {**params, "trunk": {**params["trunk"], "conditioner": read}}
        return trained, {"trunk": {"conditioner": {"null": conditioner["null"]}}}
    return {"modes": params["modes"]}, {key: params[key] for key in ("trunk", "tokens")}


def adapter_rank(params: Params) -> int | None:
    """The LoRA rank of a stored tree; None when its modes share all weights."""
    return next((rank for own in params["modes"].values() if (rank := lora.rank_of(own))), None)


def _tokens(params: Params, underlying: Patch) -> Params:
    """Embed and de-embed of plain parameters, lifted to a larger patch."""
    embed, deembed = params["embed"], params["deembed"]
    return {
        "embed": {"kernel": lift_embed(embed["kernel"], underlying), "bias": embed["bias"]},
        "deembed": {
            "kernel": lift_deembed(deembed["kernel"], underlying),
            "bias": lift_deembed(deembed["bias"], underlying),
        },
    }


def _own_leaves(depth: int, width: int) -> Params:
    """A mode's embedding and norms, all zero: at zero the function is the pre-trained one."""

    def norm(*shape: int) -> Params:
        return {"gain": jnp.zeros(shape), "shift": jnp.zeros(shape)}

    return {
        "patch_embedding": jnp.zeros((width,)),
        "blocks": {"norm1": norm(depth, width), "norm2": norm(depth, width)},
        "final": {"norm": norm(width)},
    }
