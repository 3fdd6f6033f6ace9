"""Which file computes attention: by platform, by what kernels say, by name."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from flexidit_jax.common import notes
from flexidit_jax.common.axes import platform
from flexidit_jax.common.errors import UserError
from flexidit_jax.models.attention import backend, cudnn
from flexidit_jax.models.attention.backend import attend, chosen

SHAPE = (2, 256, 16, 72)
BF16, F32 = jnp.dtype("bfloat16"), jnp.dtype("float32")


@pytest.fixture(autouse=True)
def asked_anew() -> None:
    backend._why_not.cache_clear()


@pytest.fixture
def with_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    """cuDNN takes everything."""
    monkeypatch.setattr(cudnn, "attend", lambda q, *rest: q)


@pytest.mark.usefixtures("with_cudnn")
@pytest.mark.parametrize(
    ("platform", "dtype", "file"),
    [
        ("cpu", F32, "xla"), ("cpu", BF16, "xla"), ("gpu", BF16, "cudnn"), ("gpu", F32, "xla"), ("tpu", BF16, "splash"),
        ("tpu", F32, "xla"), ("metal", BF16, "xla"),
    ],
)  # fmt: skip
def test_auto(platform: str, dtype: jnp.dtype, file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert chosen("auto", platform, dtype, SHAPE, SHAPE) == file
    assert chosen("auto", platform, dtype, SHAPE, SHAPE) == file
    said = capsys.readouterr().err
    if platform == "cpu":
        assert said == ""  # there is no choice
    elif file == "xla":
        assert said.count("\n") == 1 and said.startswith("note: attention runs without a fused kernel (cudnn: it ")
    else:
        assert said == f"note: attention runs by the fused kernel {file}\n"


@pytest.mark.usefixtures("with_cudnn")
def test_a_program_for_any_batch_runs_ours() -> None:
    """What `--mode=export` writes."""
    (batch,) = export.symbolic_shape("b")
    for where in ("gpu", "tpu"):
        assert chosen("auto", where, BF16, (batch, *SHAPE[1:]), (batch, *SHAPE[1:])) == "xla"
        assert "splash: this is for batches of any size" in notes.said.pop()


@pytest.mark.parametrize(
    ("name", "dtype", "says"),
    [
        ("cudnn", BF16, "it is a kernel of NVIDIA GPUs, and this is compiled for a CPU"),
        ("splash", F32, "it is a kernel of TPUs, and this is compiled for a CPU"),
    ],
)
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="there it may run")
def test_a_kernel_of_another_machine_is_refused(name: str, dtype: jnp.dtype, says: str) -> None:
    q = np.zeros(SHAPE, dtype)
    with pytest.raises(UserError) as caught:
        attend(name, q, q, q)
    assert str(caught.value) == f"model.attention={name!r} does not run here ({says}); use 'auto'"


def test_a_kernel_says_itself_what_it_does_not_take() -> None:
    """Here, that its library is missing, or that no head is so wide."""
    wide = (2, 256, 16, 1000)
    with pytest.raises(UserError, match=r"^model\.attention='cudnn' does not run here \([^\n]+[^.]\); use 'auto'$"):
        chosen("cudnn", "gpu", BF16, wide, wide)
    assert "float32" in cudnn.suits("gpu", F32, SHAPE, SHAPE, False)


@pytest.mark.usefixtures("with_cudnn")
def test_the_platform_is_that_of_the_mesh_or_of_the_default_device(monkeypatch: pytest.MonkeyPatch) -> None:
    card = jax.sharding.AbstractMesh((1,), ("one",), abstract_device=jax.sharding.AbstractDevice("any", 132, "gpu"))
    q, traced = np.zeros((1, 4, 2, 8), BF16), []
    run = jax.jit(lambda q: traced.append(platform()) or attend("auto", q, q, q + 1))
    for _ in range(2):  # the program of one platform is none of another
        run(q)
        with jax.sharding.use_abstract_mesh(card):
            assert jax.eval_shape(run, q).dtype == BF16
    assert traced == [jax.default_backend(), "gpu"]
    for device in (jax.devices("cpu")[0], "cpu"):
        with jax.default_device(device):
            assert platform() == "cpu"
