"""Processes find each other before jax begins, which says nothing for as long as one is late, and then aborts.

Process 0 calls the roll at the address where jax's coordination service is going to listen, so that no other is needed.
The others say who they are; what it says to them is lines: that it waits for some, that all are here, or who is not.
"""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import sys
import time
from collections.abc import Iterable

from flexidit_jax.common.cluster.liveness import listening
from flexidit_jax.common.errors import UserError

#: seconds of waiting before a process says for whom; half the patience where that is less
NOTICE = 10
ALL_HERE, WAITING, REFUSED = "all are here", "waiting for ", "refused: "


def call(address: str, processes: int, process: int, patience: float) -> None:
    """Returns when all processes of a job are here; those that wait say so on standard error.

    Args:
      address: HOST:PORT of process 0.
      processes, process: how many there are, and which one this is.
      patience: seconds.

    Raises:
      UserError: some did not come, and their numbers; or process 0 cannot be reached, cannot listen or refuses this
        one, which is there already or of another number of processes.
    """
    if processes == 1:
        return
    host, _, port = address.rpartition(":")
    if process == 0:
        with contextlib.closing(_Roll(address, processes)) as roll:
            roll.call(int(port), patience)
    else:
        _answer(address, (host.strip("[]"), int(port)), [process, processes], patience)


class _Roll:
    """Process 0's."""

    def __init__(self, address: str, processes: int) -> None:
        self._address, self._processes = address, processes
        self._here: dict[socket.socket, int] = {}
        self._waited = False

    def call(self, port: int, patience: float) -> None:
        try:
            server = listening(port)
        except OSError as error:
            raise UserError(
                f"process 0 cannot listen at {self._address} ({error.strerror}); name a port that is free"
            ) from None
        began = time.monotonic()
        with server, selectors.DefaultSelector() as selector:
            selector.register(server, selectors.EVENT_READ)
            while len(self._here) < self._processes - 1:
                waited = time.monotonic() - began
                if waited > min(NOTICE, patience / 2) and not self._waited:
                    self._waited = True
                    _tell(self._here, f"{WAITING}{self._missing()}")
                    print(f"{WAITING}{self._missing()}", file=sys.stderr, flush=True)
                if waited > patience:
                    said = f"{self._missing()} did not come within {patience:g} s; see what was said there"
                    _tell(self._here, f"{REFUSED}{said}")
                    raise UserError(said)
                ready = {key.fileobj for key, _ in selector.select(0.5)}
                for line in ready - {server}:  # a process says no more: it ended, and may come again
                    selector.unregister(line)
                    del self._here[line]
                    line.close()
                if server in ready:
                    self._welcome(server, selector)
        _tell(self._here, ALL_HERE)  # nobody listens now, until jax does

    def close(self) -> None:
        for line in self._here:
            line.close()

    def _welcome(self, server: socket.socket, selector: selectors.BaseSelector) -> None:
        with contextlib.suppress(OSError, ValueError, TypeError):  # of somebody who is no process
            line, _ = server.accept()
            line.settimeout(2)
            number, processes = json.loads(line.makefile("rb", 0).readline(64))
            refused = None
            if processes != self._processes:
                refused = f"--processes={processes} here, and {self._processes} for process 0 at {self._address}"
            elif number in self._here.values():
                refused = f"process 0 at {self._address} has a process {number} already; each needs another --process"
            if refused:
                _tell([line], f"{REFUSED}{refused}")
                line.close()
                return
            selector.register(line, selectors.EVENT_READ)
            self._here[line] = number
            if self._waited and len(self._here) < self._processes - 1:
                _tell([line], f"{WAITING}{self._missing()}")

    def _missing(self) -> str:
        missing = sorted({*range(1, self._processes)} - {*self._here.values()})
        numbers = f"{', '.join(map(str, missing[:8]))}{', ...' * (len(missing) > 8)}"
        return f"{len(missing)} of {self._processes} processes at {self._address} (number {numbers})"


def _answer(address: str, at: tuple[str, int], me: list[int], patience: float) -> None:
    """Another process's: says `me` until all are here, then waits until jax listens there."""
    began, here, told, reason = time.monotonic(), False, False, ""
    while True:
        try:
            with socket.create_connection(at, timeout=5) as line:
                if here:
                    return
                line.sendall(f"{json.dumps(me)}\n".encode())
                line.settimeout(patience + 1)  # process 0 has as much, and a second to say so
                reason = "it ended before all were here"
                for said in map(bytes.decode, line.makefile("rb")):
                    if said.startswith(REFUSED):
                        raise UserError(said.removeprefix(REFUSED).strip())
                    if said.startswith(WAITING):
                        told = True
                        print(said, end="", file=sys.stderr, flush=True)
                    elif said.strip() == ALL_HERE:
                        here, began = True, time.monotonic()
                        break
        except (OSError, ValueError) as error:
            reason = str(error)
        waited = time.monotonic() - began
        if waited > min(NOTICE, patience / 2) and not told:
            told = True
            print(f"{WAITING}process 0 at {address} ({reason})", file=sys.stderr, flush=True)
        if waited > patience:
            raise UserError(f"process 0 at {address} did not answer within {patience:g} s ({reason}); is it there?")
        time.sleep(0.2)


def _tell(lines: Iterable[socket.socket], words: str) -> None:
    for line in lines:
        with contextlib.suppress(OSError):
            line.sendall(f"{words}\n".encode())
