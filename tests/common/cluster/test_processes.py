"""Joining several processes: what flags and environment say. `tests/jobs/test_several_processes.py` starts some."""

from __future__ import annotations

import os
import re
import signal
import socket
import threading
from typing import Any

import jax
import pytest

from flexidit_jax.common.cluster import environment
from flexidit_jax.common.cluster import processes as cluster
from flexidit_jax.common.cluster.environment import check_alone
from flexidit_jax.common.errors import UserError
from flexidit_jax.main import main

CONFIG = "--config=configs/digits.py:smoke"


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("--process=0",), "--coordinator=HOST:PORT and --processes=N missing"),
        (("--coordinator=h:1", "--processes=2"), "--process=I missing; a job of several processes needs"),
        (
            ("--coordinator=h", "--processes=2", "--process=0"),
            "--coordinator=h is not HOST:PORT, such as",
        ),
        (("--coordinator=h:1", "--processes=2", "--process=2"), "--process=2 of --processes=2 does not exist"),
        (("--coordinator=h:1", "--processes=0", "--process=0"), "--process=0 of --processes=0 does not exist"),
        (("--coordinator=h:1", "--processes=2", "--process=-1"), "--process=-1 of --processes=2 does not exist"),
        (("--coordinator=h:65536", "--processes=2", "--process=0"), "--coordinator=h:65536 names no port; they count"),
        (("--coordinator=h:0", "--processes=2", "--process=0"), "--coordinator=h:0 names no port; they count 1..65535"),
        (("--patience=0",), "--patience=0 is not a positive number of seconds"),
        (("--heartbeat=0",), "--heartbeat=0 is not a positive number of seconds"),
        (("--stopped-status=300",), "--stopped-status=300 is no exit status; 0..255 would do"),
        (("--processes=two",), "argument --processes: invalid int value: 'two'"),
    ],
)
def test_flags_that_name_no_process_are_refused(
    flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jax.distributed, "initialize", lambda **words: pytest.fail("joined"))
    assert main([CONFIG, *flags]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {says}") and error.count("\n") == 1


def test_one_of_several_alone_says_who_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its flags, and by an environment that jax reads: it would say nothing, and abort in the end."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **words: pytest.fail("joined"))
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    missing = f"1 of 2 processes at localhost:{port} (number 1)"
    said = f"waiting for {missing}\nerror: {missing} did not come within 1 s; see what was said there\n"
    environ(monkeypatch)
    assert main([CONFIG, f"--coordinator=localhost:{port}", "--processes=2", "--process=0", "--patience=1"]) == 2
    assert capsys.readouterr().err == said
    task = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "localhost", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    environ(monkeypatch, SLURM_NTASKS="2", **task)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", str(port))
    assert main([CONFIG, "--patience=1"]) == 2
    assert capsys.readouterr().err == said


def environ(monkeypatch: pytest.MonkeyPatch, **environment: str) -> None:
    """Makes this the environment, as far as a job of several processes goes."""
    for name in list(os.environ):
        if name.startswith(("SLURM_", "OMPI_", "KUBERNETES_", "TPU_WORKER")) or name == "JOB_COMPLETION_INDEX":
            monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)


def joined(monkeypatch: pytest.MonkeyPatch, platforms: str | None = None, **environment: str) -> list[dict[str, Any]]:
    """With what jax is asked to join in such an environment, if it is."""
    asked: list[dict[str, Any]] = []

    def initialize(**words: Any) -> None:
        asked.append(words)
        raise ValueError("coordinator_address should be defined.")  # as jax does where it finds no cluster

    environ(monkeypatch, **environment)
    monkeypatch.setattr(jax.distributed, "initialize", initialize)
    platforms_before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", platforms)
        cluster.join()
    finally:
        jax.config.update("jax_platforms", platforms_before)
    assert not cluster.several()
    return asked


def unfound(monkeypatch: pytest.MonkeyPatch, **environment: str) -> str:
    """What is said where jax finds no cluster in such an environment."""
    with pytest.raises(UserError) as refused:
        joined(monkeypatch, **environment)
    return str(refused.value)


def test_a_machine_by_itself_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    assert joined(monkeypatch) == joined(monkeypatch, "cpu") == joined(monkeypatch, "cuda,cpu") == []
    # jax would start a cluster of one for these, and take the first of the GPUs
    assert joined(monkeypatch, SLURM_NTASKS="1", SLURM_STEP_NUM_NODES="1", SLURM_PROCID="0") == []
    assert joined(monkeypatch, OMPI_COMM_WORLD_SIZE="1") == []
    assert joined(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.1") == []
    assert joined(monkeypatch, SLURM_NTASKS="4", SLURM_STEP_NUM_TASKS="1") == []  # a shell in a job of four tasks
    check_alone("sampling", None)
    environ(monkeypatch, KUBERNETES_SERVICE_HOST="10.0.0.1", JOB_COMPLETION_INDEX="3")
    check_alone("sampling", None)  # one of independent pods


def test_a_cluster_is_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    (pod,) = joined(monkeypatch, "tpu,cpu")
    assert pod["coordinator_address"] is None and "local_device_ids" not in pod
    assert 0 < pod["heartbeat_timeout_seconds"] < 60 and 0 < pod["shutdown_timeout_seconds"] < 60
    (each,) = joined(monkeypatch, SLURM_NTASKS="8", SLURM_STEP_NUM_NODES="2")
    assert "local_device_ids" not in each  # one task a GPU: jax gives it the one of its local number
    (node,) = joined(monkeypatch, SLURM_NTASKS="2", SLURM_STEP_NUM_NODES="2")
    assert node["local_device_ids"] == ()  # one task a node: it takes all


def test_one_of_several_that_finds_no_others_does_not_go_on_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would write all files, and sweep what the others have not finished."""
    says = " says that this is one of several processes, and jax cannot find the others; name them, or N=1:"
    flags = " --coordinator=HOST:PORT, --processes=N, --process=I"
    assert unfound(monkeypatch, OMPI_COMM_WORLD_SIZE="2") == f"OMPI_COMM_WORLD_SIZE=2{says}{flags}"
    step = {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "8"}
    assert unfound(monkeypatch, **step) == f"SLURM_STEP_NUM_TASKS=8{says}{flags}"
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}
    assert unfound(monkeypatch, **pod) == f"JOB_COMPLETION_INDEX=0{says}{flags}"


def test_open_mpi_5_is_not_found_by_jax(monkeypatch: pytest.MonkeyPatch) -> None:
    """jax's own search, which wants a variable that Open MPI 4 sets."""
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)  # by other tests
    environ(monkeypatch, OMPI_COMM_WORLD_SIZE="2", OMPI_COMM_WORLD_RANK="0")
    with pytest.raises(UserError, match=r"^OMPI_COMM_WORLD_SIZE=2 says that this is one of several processes"):
        cluster.join()


def test_signals_are_heard_at_a_barrier(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = threading.Event()

    class Client:
        def wait_at_barrier(self, name: str, milliseconds: int) -> None:
            # jax's waits in C++: the main thread, which alone hears signals, would hear them when it is over
            assert threading.current_thread() is not threading.main_thread()
            signal.raise_signal(signal.SIGUSR1)
            assert heard.wait(10)

    monkeypatch.setattr(cluster, "several", lambda: True)
    monkeypatch.setattr(cluster, "client", Client)
    before = signal.signal(signal.SIGUSR1, lambda *_: heard.set())
    try:
        cluster.wait("lunch")
    finally:
        signal.signal(signal.SIGUSR1, before)


ONCE = "start it once: as a step of one task, on a TPU of one host (or with TPU_PROCESS_BOUNDS=1,1,1), or on a CPU with"
NOT_HERE = f" says that here are several; {ONCE} JAX_PLATFORMS=cpu"


def test_only_some_modes_run_as_several(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The others do not wait for processes that may never come."""
    monkeypatch.setattr(jax.distributed, "initialize", lambda **words: pytest.fail("joined"))
    environ(monkeypatch)
    assert main([CONFIG, "--mode=sample", "--coordinator=h:1", "--processes=2", "--process=0"]) == 2
    said = f"--mode=sample runs in one process, and --processes=2{NOT_HERE}\n"
    assert capsys.readouterr().err == f"error: {said}"
    environ(monkeypatch, SLURM_NTASKS="8", SLURM_STEP_NUM_TASKS="8")
    assert main([CONFIG, "--mode=sample"]) == 2
    assert capsys.readouterr().err == f"error: {said.replace('--processes=2', 'SLURM_STEP_NUM_TASKS=8')}"


def test_one_host_of_a_larger_tpu_is_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax._src.clusters.cloud_tpu_cluster.running_in_cloud_tpu_vm", True)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", "tpu,cpu")
        for name, value in {"TPU_SKIP_MDS_QUERY": "1", "MEGASCALE_NUM_SLICES": "1"}.items():  # else it asks the network
            monkeypatch.setenv(name, value)
        environ(monkeypatch, TPU_WORKER_HOSTNAMES="a,b")
        with pytest.raises(UserError, match=rf"^sampling runs .*, and jax \(2 processes\){re.escape(NOT_HERE)}"):
            check_alone("sampling", None)
        check_alone("sampling", 1)  # a flag knows better
        monkeypatch.setenv("TPU_PROCESS_BOUNDS", "1,1,1")
        check_alone("sampling", None)
        monkeypatch.delenv("TPU_PROCESS_BOUNDS")
        environ(monkeypatch, TPU_WORKER_HOSTNAMES="a")
        check_alone("sampling", None)  # one host
        environ(monkeypatch)
        check_alone("sampling", None)
        jax.config.update("jax_platforms", "cpu")
        environ(monkeypatch, TPU_WORKER_HOSTNAMES="a,b")
        check_alone("sampling", None)  # its CPU is its own
    finally:
        jax.config.update("jax_platforms", before)


def test_jax_is_asked_in_one_place_and_only_for_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever wants to know how many there are neither waits for a coordinator nor needs a number of its own."""
    from jax._src.clusters import SlurmCluster

    def never(*args: object, **words: object) -> None:
        pytest.fail("asked")

    task = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_PROCID": "1", "SLURM_LOCALID": "0"}
    environ(monkeypatch, SLURM_NTASKS="2", **task)
    monkeypatch.setenv("JAX_COORDINATOR_PORT", "9")
    assert environment.place(1) == ("a1:9", 2, 1)
    for method in ("get_coordinator_address", "get_process_id", "get_local_process_id"):
        monkeypatch.setattr(SlurmCluster, method, never)
    with pytest.raises(UserError, match=r"^sampling runs .*, and jax \(2 processes\) says"):
        check_alone("sampling", None)


def test_a_script_of_a_job_of_many_tasks_is_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax._src.xla_bridge.backends_are_initialized", lambda: False)  # by other tests
    environ(monkeypatch, SLURM_JOB_ID="7", SLURM_NTASKS="8", SLURM_PROCID="0", SLURM_LOCALID="0")
    check_alone("sampling", None)
    cluster.join()
    assert not cluster.several()
