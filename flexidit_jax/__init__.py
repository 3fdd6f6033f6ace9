"""FlexiDiT in JAX: one diffusion transformer, several patch sizes, compute where it matters.

    import flexidit_jax as fd
    flex = fd.load("runs/digits")
    images = flex.sample([0, 1, 2], steps=50, budget=0.56, guidance=1.0)

`python -m flexidit_jax.main --help` for the command line.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flexidit_jax.api import FlexiDiT, FlopCount, NotFinite, Prediction, SampleSpec, UserError
    from flexidit_jax.loading import load

__all__ = ["FlexiDiT", "FlopCount", "NotFinite", "Prediction", "SampleSpec", "UserError", "load"]
__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """A public name, read when it is asked for: a command line with a mistake in it needs no jax."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flexidit_jax import api, loading

    return getattr(loading if name == "load" else api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
