"""Token positions and timestep features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from flexidit_jax.models.position import position_embedding, timestep_features


def features(coordinate: float, width: int) -> np.ndarray:
    """[sin | cos] of one coordinate, written out."""
    angles = [coordinate / 10000 ** (2 * i / width) for i in range(width // 2)]
    return np.array([np.sin(a) for a in angles] + [np.cos(a) for a in angles])


def test_at_the_pretrained_patch_positions_are_those_of_dit(golden: dict[str, np.ndarray]) -> None:
    ours = position_embedding((1, 8, 8), (1, 2, 2), (1, 2, 2), 64)
    np.testing.assert_array_equal(ours[None], golden["pos_embed"])


def test_a_larger_patch_sits_at_its_centre() -> None:
    """Patch 4 over patch 2: centres at 0.5 and 2.5 of the pre-trained grid, the width coordinate first."""
    ours = position_embedding((1, 8, 8), (1, 4, 4), (1, 2, 2), 16)
    centres = [0.5, 2.5]
    expected = [np.concatenate([features(x, 8), features(y, 8)]) for y in centres for x in centres]
    np.testing.assert_allclose(ours, expected, atol=1e-6)
    assert ours.dtype == np.float32


@pytest.mark.parametrize("patch", [(1, 1, 1), (1, 2, 2), (1, 4, 4), (1, 8, 8), (1, 2, 8)])
def test_centres(patch: tuple[int, int, int]) -> None:
    ours = position_embedding((1, 16, 16), patch, (1, 2, 2), 8)
    rows, columns = (16 // patch[1], 16 // patch[2])
    y = (np.arange(rows) + 0.5) * patch[1] / 2 - 0.5
    x = (np.arange(columns) + 0.5) * patch[2] / 2 - 0.5
    np.testing.assert_allclose(
        ours[:, 0].reshape(rows, columns), np.broadcast_to(np.sin(x), (rows, columns)), atol=1e-6
    )
    np.testing.assert_allclose(
        ours[:, 4].reshape(rows, columns), np.broadcast_to(np.sin(y)[:, None], (rows, columns)), atol=1e-6
    )


@pytest.mark.parametrize("latent", [(1, 16, 16), (1, 24, 8)])
@pytest.mark.parametrize("span", [8.0, 2.0])
def test_a_span_is_shared_by_rows_and_by_columns_of_any_number(latent: tuple[int, int, int], span: float) -> None:
    base = (1, 2, 2)
    rows, columns = (span / (side // 2) * np.arange(side // 2) for side in latent[1:])
    expected = [np.concatenate([features(x, 8), features(y, 8)]) for y in rows for x in columns]
    np.testing.assert_allclose(position_embedding(latent, base, base, 16, span), expected, atol=1e-6)
    weak = position_embedding(latent, (1, 4, 4), base, 16, span)  # in the middle of the patches it covers
    between = (rows[1] / 2, columns[1] / 2)
    np.testing.assert_allclose(weak[0], np.concatenate([features(between[1], 8), features(between[0], 8)]), atol=1e-6)


@pytest.mark.parametrize("name", ["pixart_tiny", "pixart_micro_tiny"])
def test_over_a_span_positions_are_those_of_pixart(name: str) -> None:
    wanted = np.load(Path(__file__).parents[1] / "golden" / f"{name}.npz")["pos_embed"]
    ours = position_embedding((1, 16, 16), (1, 2, 2), (1, 2, 2), wanted.shape[-1], 8 / 2)
    np.testing.assert_array_equal(ours[None], wanted)


def test_time_is_added_to_clips_only() -> None:
    image = position_embedding((1, 4, 4), (1, 2, 2), (1, 2, 2), 16)
    clip = position_embedding((4, 4, 4), (1, 2, 2), (1, 2, 2), 16)
    for frame, block in enumerate(clip.reshape(4, 4, 16)):
        np.testing.assert_allclose(block, image + features(frame, 16), atol=1e-6)
    pairs = position_embedding((4, 4, 4), (2, 2, 2), (1, 2, 2), 16)  # two frames a token: centres at 0.5 and 2.5
    for centre, block in zip([0.5, 2.5], pairs.reshape(2, 4, 16), strict=True):
        np.testing.assert_allclose(block, image + features(centre, 16), atol=1e-6)


def test_timestep_features_are_cos_then_sin() -> None:
    t = np.array([0, 1, 500, 999])
    ours = np.asarray(timestep_features(t))
    angle = t[:, None] * np.exp(-np.log(1e4) * np.arange(128) / 128)
    assert ours.shape == (4, 256)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, np.concatenate([np.cos(angle), np.sin(angle)], axis=1), atol=2e-4)
    np.testing.assert_array_equal(ours[0], np.repeat([1.0, 0.0], 128))
    assert timestep_features(t, 16).shape == (4, 16)


def test_times_between_two_whole_ones_have_features_of_their_own() -> None:
    """A flow tells the network real numbers."""
    t = np.array([0.5, 333.0, 333.4, 998.75])
    ours = np.asarray(timestep_features(t, 16))
    angle = t[:, None] * 1e4 ** (-np.arange(8) / 8)
    np.testing.assert_allclose(ours, np.concatenate([np.cos(angle), np.sin(angle)], axis=1), atol=2e-4)
    assert np.abs(ours[2] - ours[1]).max() > 0.3
