"""Solvers, one a file: `table(process, steps, ...) -> Steps`, found by module name.

The type of `process` says which noise process a solver is made for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flexidit_jax.common import build
from flexidit_jax.common.arguments import holds, shown
from flexidit_jax.common.errors import UserError
from flexidit_jax.diffusion.process import NoiseProcess, suits
from flexidit_jax.diffusion.steps import Steps


def find(name: str, process: NoiseProcess) -> Callable[..., Steps]:
    """The `table` of a solver.

    Raises:
      UserError: there is none of that name, or it is not made for this process (those that are, are named).
    """
    table = build.find(__name__, name, "table")
    if suits(table, process):
        return table
    others = [other for other in build.names(__name__, "table") if suits(build.find(__name__, other, "table"), process)]
    kind = type(process).__module__.rsplit(".", 1)[-1]
    raise UserError(f"solver {name!r} does not suit the {kind} process; these do: {', '.join(others)}")


def make_table(solver: str | Mapping[str, Any], process: NoiseProcess, steps: int) -> Steps:
    """The table of a solver given by name, or by name and keywords: `{"name": "sa_solver", "tau": 0.5}`.

    Raises:
      UserError: see `find`; or a keyword the solver does not take, steps the process does not have, or rows that no
        program could follow.
    """
    section = dict(solver) if isinstance(solver, Mapping) else {"name": solver}
    if "name" not in section:
        raise UserError('solver wants a name, such as "ddpm" or {"name": "sa_solver", "tau": 1.0}')
    table = find(name := section.pop("name"), process)
    build.check_owner(__name__, "table", name, section, "solver")
    rows = build.call(partial(table, process, steps), section, "solver")
    if not holds(rows):
        raise UserError(f"solver {shown(solver)} makes rows that are not finite; give its keywords smaller numbers")
    return rows
