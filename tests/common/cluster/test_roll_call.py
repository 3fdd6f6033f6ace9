"""Processes of a job find each other, or say who did not come; here each is a thread."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from flexidit_jax.common.cluster import roll_call as roll
from flexidit_jax.common.errors import UserError


@pytest.fixture
def address() -> str:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return f"localhost:{free.getsockname()[1]}"


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def connected(address: str) -> socket.socket:
    """To whoever listens there, once somebody does."""
    while True:
        try:
            return socket.create_connection(("localhost", int(address.split(":")[1])))
        except ConnectionRefusedError:
            pass


def refusal(process: Future) -> str:
    with pytest.raises(UserError) as refused:
        process.result(60)
    return str(refused.value)


def test_all_go_on_when_all_are_here_and_jax_listens(address: str, threads: ThreadPoolExecutor) -> None:
    others = [threads.submit(roll.call, address, 4, process, 60) for process in (3, 1, 2)]
    roll.call(address, 4, 0, 60)
    assert not any(other.done() for other in others)  # jax would abort where nothing listens yet
    with socket.create_server(("localhost", int(address.split(":")[1]))):
        assert [other.result(60) for other in others] == [None] * 3
    roll.call("nowhere:1", 1, 0, 60)  # one alone


def test_who_did_not_come_is_said_by_all_that_did(
    address: str, threads: ThreadPoolExecutor, capsys: pytest.CaptureFixture[str]
) -> None:
    processes = [threads.submit(roll.call, address, 4, process, 4) for process in (0, 2)]
    missing = f"2 of 4 processes at {address} (number 1, 3)"
    said = [refusal(process) for process in processes]
    assert said == [f"{missing} did not come within 4 s; see what was said there"] * 2
    assert capsys.readouterr().err == f"waiting for {missing}\n" * 2


def test_process_0_is_waited_for(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=rf"^process 0 at {address} did not answer within 1 s \(.*\); is it there\?$"):
        roll.call(address, 2, 1, 1)
    assert capsys.readouterr().err.startswith(f"waiting for process 0 at {address} (")


@pytest.mark.parametrize("process", [0, 1])
def test_who_is_late_is_said_even_where_the_clock_leaps(
    address: str, process: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As it does for a process that gets no processor for a while."""
    monkeypatch.setattr(roll, "time", SimpleNamespace(monotonic=iter((0.0, 9.0)).__next__))
    with pytest.raises(UserError, match=" within 1 s"):
        roll.call(address, 2, process, 1)
    assert capsys.readouterr().err.startswith("waiting for ")


def test_one_that_ends_may_come_again_and_strangers_are_nobody(address: str, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(roll.call, address, 3, 0, 60)
    with connected(address) as stranger:
        stranger.sendall(b"GET / HTTP/1.1\r\n\r\n")
    connected(address).close()
    with connected(address) as ended:
        ended.sendall(b"[1, 3]\n")
    with connected(address) as again, connected(address) as other:
        other.sendall(b"[2, 3]\n")
        again.sendall(b"[1, 3]\n")
        assert first.result(60) is None
        for line in (again, other):
            assert line.makefile("rb").read() == b"all are here\n"


def test_who_does_not_fit_is_refused(address: str, threads: ThreadPoolExecutor) -> None:
    first = threads.submit(roll.call, address, 3, 0, 60)
    with connected(address) as there:
        there.sendall(b"[1, 3]\n")
        said = refusal(threads.submit(roll.call, address, 3, 1, 60))
        assert said == f"process 0 at {address} has a process 1 already; each needs another --process"
        said = refusal(threads.submit(roll.call, address, 2, 1, 60))
        assert said == f"--processes=2 here, and 3 for process 0 at {address}"
        said = refusal(threads.submit(roll.call, address, 3, 0, 60))
        assert said.startswith(f"process 0 cannot listen at {address} (Address already in use")
        with connected(address) as last:
            last.sendall(b"[2, 3]\n")
            first.result(60)
