"""What flags and environment say of a job of several processes; nobody is waited for."""

from __future__ import annotations

import contextlib
import os
import re

from flexidit_jax.common.errors import UserError

#: where the environment says how many processes there are: in a step of srun, under mpirun
COUNTS = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
FLAGS = "--coordinator=HOST:PORT", "--processes=N", "--process=I"


def check_flags(
    coordinator: str | None, processes: int | None, process: int | None, heartbeat: int, patience: int
) -> None:
    """Refuses flags that do not name one process of a job.

    Raises:
      UserError: some of the first three without the others, or values that cannot be.
    """
    if heartbeat < 1:
        raise UserError(f"--heartbeat={heartbeat} is not a positive number of seconds")
    if patience < 1:
        raise UserError(f"--patience={patience} is not a positive number of seconds")
    given = dict(zip(FLAGS, (coordinator, processes, process), strict=True))
    missing = [flag for flag, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if missing:
        raise UserError(f"{' and '.join(missing)} missing; a job of several processes needs {', '.join(given)}")
    if not re.fullmatch(r".+:\d+", coordinator):
        raise UserError(f"--coordinator={coordinator} is not HOST:PORT, such as 10.0.0.1:8476")
    if not 1 <= int(coordinator.rpartition(":")[2]) <= 65535:
        raise UserError(f"--coordinator={coordinator} names no port; they count 1..65535")
    if processes < 1 or not 0 <= process < processes:
        raise UserError(f"--process={process} of --processes={processes} does not exist; they count 0..N-1")


def clustered(platforms: str | None) -> bool:
    """Whether jax is to look for a cluster: where it finds one of a single task it would take one GPU of many."""
    # a step knows better than its job, as of a shell in a larger one
    slurm = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in os.environ else "SLURM_NTASKS"
    several = max(map(count, (slurm, *COUNTS))) > 1 or indexed()
    return several or "tpu" in (platforms or "")  # jax itself sets the platform where it sees TPU chips


def said() -> str | None:
    """What says that this is one of several processes, such as "OMPI_COMM_WORLD_SIZE=2"; None where nothing does.

    `SLURM_NTASKS` alone does not: it is that of the job, also where a script runs outside of any step. Nor does an
    index of Kubernetes, which jobs of one and of independent pods have too.
    """
    found = next((name for name in COUNTS if count(name) > 1), None)
    return found and f"{found}={os.environ[found]}"


def check_alone(what: str, processes: int | None) -> None:
    """Refuses a job of one process that is started as one of several.

    Args:
      what: the job, in words.
      processes: as a flag says.

    Raises:
      UserError: so it is, by the flag or by the environment.
    """
    if processes == 1:
        return
    if one_of := f"--processes={processes}" if processes else said() or _found():
        raise UserError(
            f"{what} runs in one process, and {one_of} says that here are several; start it once: as a step of one"
            " task, on a TPU of one host (or with TPU_PROCESS_BOUNDS=1,1,1), or on a CPU with JAX_PLATFORMS=cpu"
        )


def count(variable: str) -> int:
    """A number of the environment, 0 where there is none."""
    value = os.environ.get(variable, "")
    return int(value) if value.isdigit() else 0


def place(patience: int) -> tuple[str | None, int | None, int | None]:
    """Coordinator, number of processes and which one this is, where jax finds a cluster.

    Args:
      patience: seconds that it may look for the coordinator's address.
    """
    return _detected(os.environ.get("JAX_COORDINATOR_ADDRESS"), None, patience)


def _found() -> str | None:
    """The cluster of several processes that jax would join, as a host of a larger TPU does unless told its bounds."""
    import jax

    if os.environ.get("TPU_PROCESS_BOUNDS", os.environ.get("TPU_HOST_BOUNDS")) == "1,1,1":
        return None
    if clustered(jax.config.jax_platforms):
        with contextlib.suppress(Exception):  # of a network where nobody can be asked
            _, processes, _ = _detected("not asked for", 0, 0)
            if processes is not None and processes > 1:
                return f"jax ({processes} processes)"
    return None


def _detected(coordinator: str | None, process: int | None, patience: int) -> tuple[str | None, int | None, int | None]:
    """Coordinator, number of processes and this one, as jax would detect them; it does not look for what is given."""
    from jax._src.clusters import ClusterEnv  # there is no public way to look without joining

    return ClusterEnv.auto_detect_unset_distributed_params(coordinator, None, process, (), None, patience)[:3]


def indexed() -> bool:
    """Whether this is a pod of an indexed Kubernetes job, of which nothing says how many there are."""
    return "KUBERNETES_SERVICE_HOST" in os.environ and "JOB_COMPLETION_INDEX" in os.environ
