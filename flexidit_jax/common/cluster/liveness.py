"""A connection between process 0 and every other, held for one purpose: it breaks when a process dies.

jax notices a dead process by its silence, which takes a while, and aborts the others with a trace. A connection is
closed by the system at once, whatever the end, so that a line can say who is gone. Where none can be made (a firewall),
or where a machine freezes and closes nothing, jax's way remains.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

#: what a process says that ends well
FAREWELL = b"bye\n"


class Lifeline:
    """Watches the other processes from threads of its own.

    Args:
      process: this one's number.
      gone: called, once and from a thread, with the number of a process that ended without a farewell.
    """

    def __init__(self, process: int, gone: Callable[[int], None]) -> None:
        self._process, self._gone = process, gone
        self._lines: list[socket.socket] = []
        self._lock, self._over = threading.Lock(), False

    def listen(self) -> int:
        """Process 0: takes the others' connections; returns the port."""
        server = listening(0)
        self._start(self._accept, server)
        return server.getsockname()[1]

    def connect(self, host: str, port: int) -> None:
        """The others: connects to process 0, if it can."""
        with contextlib.suppress(OSError):
            line = socket.create_connection((host, port), timeout=10)
            line.settimeout(None)
            line.sendall(f"{self._process}\n".encode())
            self._lines.append(line)
            self._start(self._watch, line, 0)

    def close(self) -> None:
        """Says farewell."""
        with self._lock:
            self._over = True
            self._tell(FAREWELL)

    def _accept(self, server: socket.socket) -> None:
        while True:
            line, _ = server.accept()
            with contextlib.suppress(OSError, ValueError):
                line.settimeout(10)
                number = int(line.makefile("rb", 0).readline(16))
                line.settimeout(None)
                self._lines.append(line)
                self._start(self._watch, line, number)

    def _watch(self, line: socket.socket, number: int) -> None:
        """Reads a number of a process that is gone, a farewell, or the end: then it is the one at the other end."""
        said = b""
        with contextlib.suppress(OSError):
            said = line.makefile("rb", 0).readline(16)
        with self._lock:
            if self._over or said == FAREWELL:
                return
            self._over = True
            who = int(said) if said.strip().isdigit() else number
            if self._process == 0:  # the others end when process 0 does; they shall know of whom
                self._tell(f"{who}\n".encode())
        self._gone(who)

    def _tell(self, words: bytes) -> None:
        for line in self._lines:
            with contextlib.suppress(OSError):
                line.sendall(words)

    @staticmethod
    def _start(work: Callable[..., None], *words: object) -> None:
        threading.Thread(target=work, args=words, daemon=True).start()


def listening(port: int) -> socket.socket:
    """A socket that takes connections at `port` of all addresses; 0 is any free one."""
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    return socket.create_server(("", port), family=family, dualstack_ipv6=family == socket.AF_INET6)


def pause() -> None:
    """Lets a line that names the one that died come first."""
    time.sleep(1)
