"""What a run tells of itself: its pace, outbreaks of the loss, a profile, samples on the way."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.jobs.parts.pace import Pace, memory
from flexidit_jax.jobs.parts.profile import Profile
from flexidit_jax.jobs.parts.spikes import ENOUGH, Spikes

WEAK, POWERFUL = (1, 4, 4), (1, 2, 2)


def test_pace_counts_records_and_flops_since_the_last_look() -> None:
    now = [10.0]
    pace = Pace(batch=8, flops={WEAK: 1e12, POWERFUL: 4e12}.__getitem__, devices=2, peak=5e12, clock=lambda: now[0])
    assert pace.scalars() == {}
    now[0] = 20.0
    pace.restart()  # ten seconds of something else
    for patch in (WEAK, POWERFUL, POWERFUL, WEAK):
        pace.add(patch)
    now[0] = 22.0
    assert pace.scalars() == pytest.approx(
        {"samples_per_second": 16, "tflops_per_device": 2.5, "model_flops_utilization": 0.5}
    )
    pace.add(WEAK)
    now[0] = 23.0
    assert pace.scalars() == pytest.approx(
        {"samples_per_second": 8, "tflops_per_device": 0.5, "model_flops_utilization": 0.1}
    )


def test_no_utilisation_without_a_known_peak() -> None:
    pace = Pace(batch=1, flops=lambda patch: 1.0, devices=1, peak=None)
    pace.add(WEAK)
    assert set(pace.scalars()) == {"samples_per_second", "tflops_per_device"}


def test_memory_is_this_process() -> None:
    held = memory()["memory/host_peak_gib"]
    assert 0.05 < held < 64  # jax alone takes more than 50 MiB; KiB or bytes in its place would fall out


def test_a_spike_is_told_once_and_moves_no_median() -> None:
    spikes = Spikes(3.0)
    for i in range(ENOUGH):
        assert spikes.starts(WEAK, 100.0 if i == 3 else 1.0) is None  # nothing is usual yet
    assert spikes.starts(POWERFUL, 50.0) is None  # another mode
    assert spikes.starts(WEAK, 3.0) is None
    assert spikes.starts(WEAK, 3.1) == 1.0
    assert [spikes.starts(WEAK, 9.0) for _ in range(2 * ENOUGH)] == [None] * 2 * ENOUGH  # the same outbreak
    for _ in range(ENOUGH):
        assert spikes.starts(WEAK, 1.0) is None
    assert spikes.starts(WEAK, 9.0) == 1.0


def test_spikes_can_be_left_alone() -> None:
    spikes = Spikes(None)
    assert not any(spikes.starts(WEAK, loss) for loss in [1.0] * ENOUGH + [1e9])


def test_a_profile_covers_the_steps_asked_for(tmp_path: Path) -> None:
    profile = Profile(tmp_path / "profile", at=2, total=9, steps=2)
    said = {}
    for done in range(6):
        profile.before(done)
        result = jnp.ones(4) + done
        if line := profile.after(done + 1, result):
            said[done + 1] = line
    assert list(said) == [4]
    assert said[4].startswith(f"profile of steps 3 to 4: {tmp_path / 'profile'}")
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_profile_that_is_cut_short_is_written(tmp_path: Path) -> None:
    profile = Profile(tmp_path, at=0, total=9)
    profile.before(0)
    jax.block_until_ready(jnp.ones(4) + 1)
    profile.close()
    profile.close()
    assert list(tmp_path.rglob("*.xplane.pb"))


@pytest.mark.parametrize("at", [-1, 9])
def test_a_profile_outside_the_run_is_refused(tmp_path: Path, at: int) -> None:
    with pytest.raises(UserError, match=rf"profile_at={at} is no step of this run; 0\.\.8 would do"):
        Profile(tmp_path, at=at, total=9)
