"""Who may be at work in a folder together."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from flexidit_jax.common.errors import UserError
from flexidit_jax.runs.lock import at_work


@pytest.mark.parametrize("ours", [False, True])
@pytest.mark.parametrize("theirs", [False, True])
def test_only_those_that_share_are_there_together(tmp_path: Path, ours: bool, theirs: bool) -> None:
    with at_work(tmp_path, "go", shared=ours):
        if ours and theirs:
            with at_work(tmp_path, "go", shared=True):
                pass
            return
        with (
            pytest.raises(UserError, match=rf"^another process is at work in {tmp_path}; go$"),
            at_work(tmp_path, "go", shared=theirs),
        ):
            pass
    with at_work(tmp_path, "go", shared=theirs):
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(*words: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with at_work(tmp_path, "go"), at_work(tmp_path, "go"):
        pass
