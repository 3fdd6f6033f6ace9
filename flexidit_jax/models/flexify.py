"""From one pre-trained DiT to a family of plain DiTs, and back to any member of it.

Everything flexible is here. The stored tree has three parts:

    trunk            blocks, timestep, conditioner, final modulation: shared by every mode
    tokens           the underlying embed and de-embed at p' (see models.patch): shared
    modes/<patch>    what belongs to one mode, laid over the plain tree: the patch-size embedding
                     (one vector added to every token) and that mode's norm gains and shifts

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

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.common.errors import UserError
from flexidit_jax.common.trees import merge
from flexidit_jax.common.types import Params, Patch, as_patch, patch_name, short_patch_name
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


def is_flexible(params: Params) -> bool:
    """Whether a tree is in the stored form of this module."""
    return "modes" in params


def patches_of(params: Params) -> tuple[Patch, ...]:
    """The modes of a stored tree, powerful first."""
    return sort_patches(as_patch(name) for name in params["modes"])


def flexify(params: Params, patches: Iterable[Patch]) -> Params:
    """Turns plain DiT parameters into the stored tree of a flexible one.

    At the pre-trained patch the result computes the same function; a larger patch starts from the
    projections of `models.patch`. A stored tree with one mode is taken as the plain DiT it is; one
    that has these very modes already is returned as it came.

    Args:
      params: plain parameters (random, imported, an EMA), or a stored tree.
      patches: the modes wanted.

    Raises:
      UserError: a patch smaller than the pre-trained one on an axis, or a tree that has other modes.
    """
    wanted = sort_patches(patches)
    if is_flexible(params):
        present = patches_of(params)
        if present == wanted:
            return params
        if len(present) > 1:
            names = ", ".join(map(short_patch_name, present))
            raise UserError(f"this model already has the modes {names}; flexify the pre-trained model instead")
        params = at(params, present[0])
    embed, deembed = params["embed"], params["deembed"]
    base: Patch = as_patch(embed["kernel"].shape[:3])
    for patch in wanted:
        if any(side < smallest for side, smallest in zip(patch, base, strict=True)):
            raise UserError(
                f"patch {short_patch_name(patch)} is smaller than the pre-trained patch {short_patch_name(base)};"
                " modes must be at least as large on every axis"
            )
    largest = underlying_patch(wanted)
    blank = _own_leaves(params) if len(wanted) > 1 else {}
    return {
        "trunk": {key: value for key, value in params.items() if key not in ("embed", "deembed")},
        "tokens": {
            "embed": {"kernel": lift_embed(embed["kernel"], largest), "bias": embed["bias"]},
            "deembed": {
                "kernel": lift_deembed(deembed["kernel"], largest),
                "bias": lift_deembed(deembed["bias"], largest),
            },
        },
        "modes": {patch_name(patch): jax.tree.map(jnp.copy, blank) for patch in wanted},
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
    embed, deembed = params["tokens"]["embed"], params["tokens"]["deembed"]
    tokens = {
        "embed": {"kernel": project_embed(embed["kernel"], patch), "bias": embed["bias"]},
        "deembed": {
            "kernel": project_deembed(deembed["kernel"], patch),
            "bias": project_deembed(deembed["bias"], patch),
        },
    }
    return merge(params["trunk"], tokens, params["modes"][name])


def _own_leaves(params: Params) -> Params:
    """The leaves that belong to one mode, all zero: at zero the function is the pre-trained one."""
    depth, width = params["blocks"]["mlp"]["fc2"]["bias"].shape
    norm = {"gain": jnp.zeros((depth, width)), "shift": jnp.zeros((depth, width))}
    return {
        "patch_embedding": jnp.zeros((width,)),
        "blocks": {"norm1": norm, "norm2": norm},
        "final": {"norm": {"gain": jnp.zeros((width,)), "shift": jnp.zeros((width,))}},
    }
