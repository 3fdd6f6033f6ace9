"""Signals as a request to stop. `test_several.py` sends some to several processes."""

from __future__ import annotations

import signal

import pytest

from flexidit_jax.runs.stop import SharedStop


def test_the_others_know_before_it_is_said(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    known: list[tuple[int, str]] = []
    with SharedStop("stopping") as stop:
        monkeypatch.setattr(stop._board, "put", lambda number: known.append((number, capsys.readouterr().err)))
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):  # whatever the others hear
            signal.raise_signal(signal.SIGINT)
    assert known == [(signal.SIGTERM, "")]
    assert capsys.readouterr().err == "\nstopping\n"
