"""Several processes as one job: they join, wait for each other and end together (what they tell: `messages`).

Who is late and what processes tell each other needs jax's coordination client, which has no public name: it comes
from here alone.
Nothing below imports jax before it is asked to join: a command line with a mistake in it stays quick.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import re
import socket
import sys
import traceback
from collections.abc import Iterator
from concurrent import futures
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NoReturn

from flexidit_jax.common.cluster import environment
from flexidit_jax.common.cluster import roll_call as roll
from flexidit_jax.common.cluster.liveness import Lifeline, pause
from flexidit_jax.common.errors import UserError, first_line

#: seconds of silence after which a process counts as dead, which ends all others
HEARTBEAT = 20
#: seconds that processes wait for each other to come to the same place; to start, where nothing else is said
PATIENCE = 300
#: seconds given to the others, when one process fails, to fail of the same
GRACE = 5

_lifelines: list[Lifeline] = []  # this process's, once it has joined
_numbers = itertools.count()  # every process waits in the same order, so that a number names a barrier


def join(
    coordinator: str | None = None,
    processes: int | None = None,
    process: int | None = None,
    heartbeat: int = HEARTBEAT,
    patience: int = PATIENCE,
) -> None:
    """Makes this process one of a job, before anything touches a device.

    Without flags the environment says so: a Slurm step or Open MPI (before 5) with more than one task, a Cloud TPU, an
    indexed job of Kubernetes. On any other machine nothing happens, and nothing asks the network.

    Args:
      coordinator, processes, process: where process 0 listens, how many there are, and which one this is; all or none.
      heartbeat: see `HEARTBEAT`; the same for all processes.
      patience: seconds to wait for all to start.

    Raises:
      UserError: the flags are wrong, some processes did not come, process 0 cannot be reached or cannot listen, or the
        environment names several processes in a way that jax does not read (such as Open MPI 5).
    """
    environment.check_flags(coordinator, processes, process, heartbeat, patience)
    import jax

    words: dict[str, Any] = {"coordinator_address": coordinator, "num_processes": processes, "process_id": process}
    if coordinator is not None:
        words["cluster_detection_method"] = "deactivate"
    elif not environment.clustered(jax.config.jax_platforms):
        return
    elif (tasks := environment.count("SLURM_NTASKS")) > 1 and tasks == environment.count("SLURM_STEP_NUM_NODES"):
        words["local_device_ids"] = ()  # one task a node: it takes every GPU that it sees, not that of its local number
    with contextlib.suppress(AttributeError):
        jax.config.update("jax_enable_preemption_service", False)  # it would take SIGTERM from `runs.stop`
    times = {"heartbeat_timeout_seconds": heartbeat, "shutdown_timeout_seconds": max(heartbeat, GRACE)}
    try:
        place = (coordinator, processes, process) if coordinator else environment.place(patience)
        if None not in place:
            roll.call(*place, patience)
        jax.distributed.initialize(**words, initialization_timeout=PATIENCE, **times)
    except UserError:
        raise
    except ValueError as error:
        if coordinator is None and "coordinator_address should be defined" in str(error):
            said = environment.said()
            if environment.indexed():  # it may be alone, but would write into the folder of the others if it were not
                said = f"JOB_COMPLETION_INDEX={os.environ['JOB_COMPLETION_INDEX']}"
            if said is None:
                return  # looked like a cluster, and is none
            flags = ", ".join(environment.FLAGS)
            raise UserError(
                f"{said} says that this is one of several processes, and jax cannot find the others; name them, or N=1:"
                f" {flags}"
            ) from None
        raise UserError(f"cannot join the other processes ({first_line(error)})") from None
    except Exception as error:  # jax's own, and those of requests and of kubernetes
        raise UserError(f"cannot join the other processes ({type(error).__name__}: {first_line(error)})") from None
    board = client()
    board.key_value_set(f"flexidit_jax/host/{index()}", socket.gethostname())
    line = Lifeline(index(), _gone)
    _lifelines.append(line)
    if index() == 0:
        board.key_value_set("flexidit_jax/lifeline", str(line.listen()))
    elif several():
        port = board.blocking_key_value_get("flexidit_jax/lifeline", 1000 * PATIENCE)
        line.connect(_state().coordinator_address.rpartition(":")[0].strip("[]"), int(port))
    name(0)  # while it can be asked
    _hush(speaks=jax.process_index() == 0)


def several() -> bool:
    """Whether this process is one of several."""
    state = _state()
    return state is not None and state.client is not None and state.num_processes > 1


def first() -> bool:
    """Whether this is the process that writes and speaks."""
    if not several():
        return True
    import jax

    return jax.process_index() == 0


def me() -> str:
    """`"process 1 (its-host): "` where there are several, else nothing."""
    return f"{name(index())}: " if several() else ""


def client() -> Any:
    """jax's coordination client, where there are several."""
    return _state().client


def index() -> int:
    """The number given at the start, which is also that of the coordination service's messages."""
    return _state().process_id


@functools.cache
def name(process: int) -> str:
    """`"process 1 (its-host)"`."""
    with contextlib.suppress(Exception):
        return f"process {process} ({client().key_value_try_get(f'flexidit_jax/host/{process}')})"
    return f"process {process}"


def wait(what: str, patience: float = PATIENCE) -> None:
    """Waits until all processes are here.

    Args:
      what: where that is, in words.
      patience: seconds.

    Raises:
      UserError: some did not come; they are named.
    """
    if not several():
        return
    import jax

    barrier, thread = f"flexidit_jax/{next(_numbers)}/{what}", ThreadPoolExecutor(1)
    try:  # from a thread: the main one hears signals, but not in C++, nor asleep where another thread caught them
        here = thread.submit(client().wait_at_barrier, barrier, int(1000 * patience))
        while not futures.wait([here], timeout=1).done:
            pass
        here.result()
    except jax.errors.JaxRuntimeError as error:
        raise UserError(f"at {what}: {_missing(str(error), patience)}") from None
    finally:
        thread.shutdown(wait=False)


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Ends this process, in a line, where a computation shared with others fails: they may be gone.

    What comes later, such as the end of a save, would wait for them.
    """
    import jax

    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if not several():
            raise
        pause()
        print(f"error: {me()}a shared computation failed: {first_line(error)}", file=sys.stderr)
        end(1)


def leave(status: int, failed: bool = False) -> int:
    """Ends the job with the others; the last thing a process does.

    Args:
      status: its exit status, returned.
      failed: others may not know. They get `GRACE` seconds to fail alike; else this process ends on the spot, so that
        they notice.
    """
    if not several():
        return status
    import jax

    try:
        wait("the end", GRACE if failed else PATIENCE)
    except UserError as error:
        if not failed:
            print(f"error: {me()}{error}", file=sys.stderr)
        end(status or 1)
    for line in _lifelines:
        line.close()
    jax.distributed.shutdown()
    return status


def end(status: int) -> NoReturn:
    """Ends this process on the spot, without waiting, as at exit, for its threads or for processes gone."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody listens
            stream.flush()
    os._exit(status)


def trace() -> None:
    """Prints the exception being handled, naming the process."""
    print(f"error: {me()}", file=sys.stderr)
    traceback.print_exc()


def _hush(speaks: bool) -> None:
    """Keeps C++ libraries such as Gloo, which write to its descriptor, off standard output; and who does not speak."""
    sys.stdout.flush()
    if speaks:
        words = {"encoding": sys.stdout.encoding, "errors": sys.stdout.errors}
        sys.stdout = os.fdopen(os.dup(1), "w", buffering=1 if sys.stdout.isatty() else -1, **words)
        os.dup2(2, 1)
    else:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _gone(process: int) -> None:
    """Ends this process too; process 0 last, since the others would be aborted."""
    print(f"error: {me()}{name(process)} is gone, and nothing goes on without it", file=sys.stderr, flush=True)
    if index() == 0:
        pause()
    end(1)


def _state() -> Any:
    module = sys.modules.get("jax._src.distributed")
    return None if module is None else module.global_state


def _missing(error: str, patience: float) -> str:
    """Who is late, from the words of the coordination service."""
    named = re.search(r"timed out task names:\n((?:\S+\n)+)", error)
    if named is None:
        return f"the other processes are gone ({first_line(error)})"
    late = [int(number) for task in named[1].split() for number in re.findall(r"(\d+)$", task)]
    return f"{', '.join(map(name, sorted(late)))} did not come within {patience:g} s; see what was said there"
