"""The paper's compute axis: every percentage it prints, and XLA's own count."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace

import jax
import pytest

from flexidit_jax.common.types import Patch
from flexidit_jax.models.build import build_dit
from flexidit_jax.models.dit import DiT
from flexidit_jax.models.flops import forward_flops, kept_flops, transformer_macs
from flexidit_jax.models.patch import tokens
from flexidit_jax.sampling.plan import Plan
from flexidit_jax.sampling.spec import SampleSpec

P2, P4 = (1, 2, 2), (1, 4, 4)
#: points, for rows printed with a decimal and for rows printed as integers
DECIMAL, INTEGER = 0.3, 0.5
WAN = {"1.3B": (1536, 30, 8960), "14B": (5120, 40, 13824)}
MODES = (P2, (2, 2, 2), P4, (2, 4, 4))

Cost = Callable[[Patch], float]


@pytest.fixture(scope="module")
def xl2() -> DiT:
    return build_dit((1, 32, 32, 4), {"name": "classes", "classes": 1000}, size="XL")


@pytest.fixture(scope="module")
def xl2_cost(xl2: DiT) -> Cost:
    return lambda patch: forward_flops(xl2, patch)


def planned(steps: int, cost: Cost, **words: object) -> Plan:
    table = SimpleNamespace(times=range(steps), evaluations=(1,) * steps)
    return SampleSpec(**words).plan([P2, P4], table, cost)


def weak_percent(cost: Cost, weak_steps: int, steps: int) -> float:
    schedule = f"4:{weak_steps},2:{steps - weak_steps}"
    return 100 * planned(steps, cost, schedule=schedule, guidance=1.0).relative_cost(P2, cost)


def test_dit_xl2(xl2_cost: Cost) -> None:
    assert round(xl2_cost(P2) / 2e9, 1) == 118.6
    assert round(xl2_cost(P4) / 2e9, 1) == 29.0
    assert round(xl2_cost(P4) / xl2_cost(P2), 3) == 0.245


@pytest.mark.parametrize(
    ("x", "y", "percent"), [(250, 250, 100), (130, 130, 64), (70, 70, 46), (90, 50, 46), (30, 0, 29)]
)
def test_dit_xl2_with_guidance(xl2_cost: Cost, x: int, y: int, percent: float) -> None:
    chosen = planned(250, xl2_cost, schedule=f"{x}/{y}", guidance=1.5)
    assert abs(100 * chosen.relative_cost(P2, xl2_cost) - percent) <= INTEGER


@pytest.mark.parametrize(("weak", "percent"), [(50, 84.9), (100, 69.7), (150, 54.6)])
def test_dit_xl2_weak_first(xl2_cost: Cost, weak: int, percent: float) -> None:
    assert abs(weak_percent(xl2_cost, weak, 250) - percent) <= DECIMAL


@pytest.fixture(scope="module")
def t2i() -> DiT:
    """PixArt at 256 pixels: DiT-XL/2 with cross-attention to 120 text tokens, adapters merged."""
    text = {"name": "text", "features": 4096, "length": 120}
    return build_dit((1, 32, 32, 4), text, size="XL", modulation="single", span=16.0)


def test_a_text_is_a_fifth_of_a_weak_call(t2i: DiT) -> None:
    calls = [forward_flops(t2i, patch, text_kept=kept) / 2e9 for kept in (False, True) for patch in (P2, P4)]
    assert [round(macs, 1) for macs in calls] == [149.1, 43.7, 139.4, 34.1]
    assert 2e9 * (calls[0] - calls[2]) == pytest.approx(kept_flops(t2i))


@pytest.mark.parametrize(
    ("steps", "weak", "percents"),
    [
        (100, range(10, 90, 10), (92.9, 85.8, 78.8, 71.7, 64.6, 57.5, 50.5, 43.4)),
        (21, range(2, 12, 2), (93.3, 86.5, 79.8, 73.0, 66.3)),  # 20 of DPM-Solver
        (25, range(3, 24, 3), (91.5, 83.0, 74.5, 66.0, 57.5, 49.1, 40.6)),  # of SA-Solver
    ],
)
def test_text_to_image(t2i: DiT, steps: int, weak: range, percents: tuple[float, ...]) -> None:
    for count, percent in zip(weak, percents, strict=True):
        assert abs(weak_percent(lambda patch: forward_flops(t2i, patch), count, steps) - percent) < 0.1, count


@pytest.mark.parametrize(("weak", "percent"), [(10, 84.3), (20, 68.6), (30, 52.9), (40, 37.2), (50, 21.5)])
def test_emu(weak: int, percent: float) -> None:
    """4096 and 1024 tokens; the weak mode carries rank-64 adapters, unmerged."""
    words = {"width": 2048, "depth": 24, "num_heads": 16, "learn_variance": False}
    emu = build_dit((1, 128, 128, 16), {"name": "text", "features": 4096, "length": 77}, **words)
    assert [tokens(emu.latent, patch) for patch in (P2, P4)] == [4096, 1024]
    share = weak_percent(lambda patch: forward_flops(emu, patch, 64 if patch == P4 else 0), weak, 50)
    assert abs(share - percent) <= DECIMAL


def wan(size: str, latent: tuple[int, int, int] = (21, 60, 104)) -> DiT:
    width, depth, hidden = WAN[size]
    text = {"name": "text", "features": 4096, "length": 512, "mask": False}
    words = {"modulation": "single", "positions": "rope", "qk_norm": "rms", "cross_norm": True, "learn_variance": False}
    sizes = {"width": width, "depth": depth, "num_heads": width // 128, "mlp_ratio": hidden / width}
    return build_dit((*latent, 16), text, patch=P2, **sizes, **words)


@pytest.mark.parametrize(
    ("size", "latent", "counts", "tera", "merged", "apart"),
    [
        (
            "1.3B",
            (32, 88, 48),  # that of the paper
            (33792, 16896, 8448, 4224),
            (149.17, 48.32, 17.62, 7.21),
            (100, 32.4, 11.8, 4.8),
            (33.0, 12.1),
        ),
        (
            "1.3B",
            (21, 60, 104),  # of which the first frame is repeated for a patch of two
            (32760, 17160, 8190, 4290),
            (141.50, 49.49, 16.89, 7.35),
            (100, 35.0, 11.9, 5.2),
            (35.7, 12.3),
        ),
        (
            "14B",
            (21, 60, 104),
            (32760, 17160, 8190, 4290),
            (839.19, 330.46, 128.21, 60.84),
            (100, 39.4, 15.3, 7.2),
            (39.7, 15.4),
        ),
    ],
)
def test_wan_to_the_printed_digit(
    size: str, latent: tuple[int, int, int], counts: tuple, tera: tuple, merged: tuple, apart: tuple
) -> None:
    """Multiply-adds a forward pass, and shares of the powerful one, with adapters of rank 64 merged and beside."""
    model = wan(size, latent)
    assert tuple(tokens(model.latent, patch) for patch in MODES) == counts
    calls = [forward_flops(model, patch) / 2e12 for patch in MODES]
    assert tuple(round(call, 2) for call in calls) == tera
    assert tuple(round(100 * call / calls[0], 1) for call in calls) == merged
    beside = [forward_flops(model, patch, lora_rank=64) / 2e12 for patch in MODES[1:3]]
    assert tuple(round(100 * call / calls[0], 1) for call in beside) == apart


@pytest.mark.parametrize(
    ("patch", "percents"),
    [((2, 2, 2), (80.5, 67.5, 54.5, 48.0, 41.5, 35.0)), (P4, (73.6, 56.0, 38.4, 29.6, 20.7, 11.9))],
)
def test_wan_weak_first(patch: Patch, percents: tuple[float, ...]) -> None:
    """Of 100 guided steps at 480p the first 30, 50, 70, 80, 90 and all weak."""
    cost = lru_cache(lambda patch: forward_flops(wan("1.3B"), patch))
    table = SimpleNamespace(times=range(100), evaluations=(1,) * 100)
    name = "x".join(map(str, patch))
    for weak, percent in zip((30, 50, 70, 80, 90, 100), percents, strict=True):
        spec = SampleSpec(schedule=f"{name}:{weak},1x2x2:{100 - weak}" if weak < 100 else f"{name}:100", guidance=5.0)
        share = spec.plan([P2, patch], table, cost).relative_cost(P2, cost)
        assert round(100 * share, 1) == percent


def test_terms_one_by_one() -> None:
    """Against the formula written out, with numbers no two of which can be confused."""
    d, depth, n, m, r = 8, 3, 5, 7, 2
    ends = n * d * (11 + 13) + 2 * d * d + 256 * d + d * d
    block = 12 * n * d**2 + 2 * n**2 * d + 6 * d**2
    assert transformer_macs(d, depth, n, 11, 13) == depth * block + ends
    cross = 2 * n * d**2 + 2 * m * d**2 + 2 * n * m * d
    assert transformer_macs(d, depth, n, 11, 13, text_tokens=m) == depth * (block + cross) + ends
    kept = 2 * n * d**2 + 2 * n * m * d
    found = transformer_macs(d, depth, n, 11, 13, text_tokens=m, text_kept=True)
    assert found == depth * (block + kept) + ends
    own = m * (9 * d + d**2)  # of 9 channels
    assert transformer_macs(d, depth, n, 11, 13, text_tokens=m, text_macs=own) == depth * (block + cross) + ends + own
    assert transformer_macs(d, depth, n, 11, 13, text_tokens=m, text_macs=own, text_kept=True) == found
    single = transformer_macs(d, depth, n, 11, 13, modulation="single")
    assert single == depth * (block - 6 * d**2) + 6 * d**2 + ends - 2 * d * d
    layers = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)]  # qkv, proj, fc1, fc2
    lora = sum(n * (i * r + r * o) for i, o in layers)
    assert transformer_macs(d, depth, n, 11, 13, lora_rank=r) == depth * (block + lora) + ends
    wider = sum(n * (i * r + r * o) for i, o in [(d, 3 * d), (d, d), (d, 2 * d), (2 * d, d)])
    thin = 8 * n * d**2 + 2 * n**2 * d + 6 * d**2
    assert transformer_macs(d, depth, n, 11, 13, mlp_ratio=2, lora_rank=r) == depth * (thin + wider) + ends


@pytest.mark.parametrize(
    ("patch", "learn_variance", "mlp_ratio"),
    [((1, 2, 2), True, 4), ((1, 4, 4), True, 4), ((1, 2, 2), False, 2)],
)
def test_against_xla(patch: Patch, learn_variance: bool, mlp_ratio: int) -> None:
    """A model with every block unrolled: XLA counts a scanned body once. What is left is element-wise work."""
    model = build_dit(
        (1, 32, 32, 4),
        {"name": "classes", "classes": 3},
        width=256,
        depth=2,
        num_heads=2,
        mlp_ratio=mlp_ratio,
        learn_variance=learn_variance,
        unroll=2,
    ).at(patch)

    def forward(params, x, t, cond):
        return model.apply({"params": params}, x, t, cond)

    x, t = model.example(1)
    cond = model.conditioner.parse([0])
    params = jax.eval_shape(lambda: model.init(jax.random.key(0), x, t, cond))["params"]
    counted = jax.jit(forward).lower(params, x, t, cond).cost_analysis()["flops"]
    ratio = counted / forward_flops(model, patch)
    assert 1 <= ratio < 1.025, ratio
