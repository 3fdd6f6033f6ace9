"""The largest arrays of a program, of which nothing is made that was handed in or stays on the chip."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from flexidit_jax.programs.hlo import parse
from flexidit_jax.programs.largest_arrays import Made, largest_arrays

TEXT = """\
HloModule made

%inner (p: f32[64]) -> f32[64,64] {
  %p = f32[64]{0} parameter(0)
  %huge = f32[64,64,64]{2,1,0} broadcast(%p), dimensions={0}
  ROOT %small = f32[64,64]{1,0} slice(%huge), slice={[0:1], [0:64], [0:64]}
}

%never (q: f32[9]) -> f32[99999] {
  %q = f32[9]{0} parameter(0)
  ROOT %n = f32[99999]{0} pad(%q, %q), padding=0_99990
}

ENTRY %main (x: f32[64], state: f32[128,64]) -> (f32[128,64], f32[64,64]) {
  %x = f32[64]{0} parameter(0)
  %state = f32[128,64]{1,0} parameter(1)
  %new = f32[128,64]{1,0} add(%state, %state), metadata={op_name="jit(step)/add"}
  %fused = f32[64,64]{1,0} fusion(%x), kind=kLoop, calls=%inner, metadata={op_name="jit(step)/while/body/mlp/fc1/dot"}
  %again = f32[64,64]{1,0} negate(%fused), metadata={op_name="jit(step)/other"}
  %chip = f32[512,512]{1,0:T(8,128)S(1)} broadcast(%x), dimensions={0}
  %half = bf16[64,64]{1,0} convert(%fused)
  %pair = (f32[9999]{0}, f32[9999]{0}) tuple(%x, %x)
  ROOT %out = (f32[128,64]{1,0}, f32[64,64]{1,0}) tuple(%new, %again)
}
"""


def test_what_is_made() -> None:
    wanted = [Made(64 * 64 * 4, "f32[64,64]", "mlp/fc1/dot"), Made(64 * 64 * 2, "bf16[64,64]", "half")]
    assert largest_arrays(parse(TEXT)) == wanted
    assert largest_arrays(parse(TEXT), most=1) == wanted[:1]


def test_within_a_loop_of_a_compiled_program() -> None:
    @jax.jit
    def step(x: jax.Array) -> jax.Array:
        body = lambda x, _: (jnp.sort(jnp.outer(x, x), axis=0).sum(0), None)  # noqa: E731
        return jax.lax.scan(body, x, length=3)[0]

    first, *_ = largest_arrays(parse(step.lower(np.ones(64, np.float32)).compile().as_text()))
    assert (first.bytes, first.shape) == (4 * 64 * 64, "f32[64,64]")
