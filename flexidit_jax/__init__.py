"""FlexiDiT in JAX: one diffusion transformer, several patch sizes, compute where it matters.

    import flexidit_jax as fd
    flex = fd.load("runs/digits")
    images = flex.sample([0, 1, 2], steps=50, budget=0.56, guidance=1.0)

`python -m flexidit_jax.main --help` for the command line.
"""

from flexidit_jax.api import FlexiDiT, FlopCount, load
from flexidit_jax.common.errors import UserError
from flexidit_jax.common.types import Prediction
from flexidit_jax.sampling.snapshot import NotFinite
from flexidit_jax.sampling.spec import SampleSpec

__all__ = ["FlexiDiT", "FlopCount", "NotFinite", "Prediction", "SampleSpec", "UserError", "load"]
__version__ = "0.1.0"
