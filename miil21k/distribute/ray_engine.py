"""The same work on a Ray cluster: jobs go to any node, and are done again when a node dies."""

from __future__ import annotations

import copy
import importlib.util
import itertools
import logging
import os
import re
import socket
import sys
import tempfile
import time
from collections import deque
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from miil21k.distribute.processes import Lost
from miil21k.environment import need, silence_telemetry
from miil21k.errors import ClusterError, EngineError, Miil21kError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from miil21k.distribute.processes import JobT, ResultT

__all__ = ["RayEngine"]

silence_telemetry()

_RETRIES = 8  # per job; a node that dies takes its jobs with it
_PATIENCE = 10.0  # seconds for the head of a cluster to answer
_RECONNECT = "RAY_gcs_rpc_server_reconnect_timeout_s"  # after so many seconds without the head, Ray exits
_LOOK = 2.0  # seconds between two looks at the head
_ADDRESS = re.compile(r"(ray://)?[^\s/:]+:\d{1,5}|(ray://)?\[[0-9a-fA-F:]+\]:\d{1,5}|auto|local")
_KEPT = "what is finished is kept: run the same command again (predict: with --resume)"


class RayEngine:
    """Runs every job as a Ray task of one core; source and target must lie on storage that all nodes see.

    address: of the cluster (`auto`, `host:6379`, `ray://host:10001`); `local` starts one on this machine. None is
    what RAY_ADDRESS says, else `local`: a cluster of somebody else is never joined unasked.
    in_flight: jobs that are queued at once; None is twice the cores of the cluster.
    joined: the address of the cluster that was joined, None for one that was started here.
    Raises MissingExtra without Ray, UsageError for what is no address, ClusterError when the cluster cannot be joined.
    """

    def __init__(self, address: str | None = None, in_flight: int | None = None) -> None:
        address = address or os.environ.get("RAY_ADDRESS") or "local"
        if not _ADDRESS.fullmatch(address):
            raise UsageError(f"'{address}' is no address of a Ray cluster: auto, local, HOST:PORT or ray://HOST:PORT.")
        ray = _ray(address)
        self._ray: Any = ray
        self._in_flight = in_flight
        self._gpu_jobs = False
        self._own = not ray.is_initialized()
        self.joined: str | None = None
        if self._own:
            if address == "local":
                _start(ray)
            else:
                self.joined = _join(ray, address)
        self._head = _Head(self.joined if address.startswith("ray://") else ray.get_runtime_context().gcs_address)

    def run(self, work: Callable[[JobT], ResultT], jobs: Iterable[JobT]) -> Iterator[ResultT]:
        """Yield results as they are ready; see `local.Engine`.

        Raises EngineError when a job died too often, ClusterError when the cluster was lost.
        """
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(work)
        ahead = self._in_flight or max(2, 2 * self._cores)
        queue = iter(jobs)
        running = [task.remote(job) for job in itertools.islice(queue, ahead)]
        try:
            while running:
                done, running = self._wait(running)
                yield from map(self._result, done)
                running += [task.remote(job) for job in itertools.islice(queue, len(done))]
        except _LostJob as lost:
            raise EngineError(
                f"A job was given up, {lost}: run the same command again, what is finished is kept."
            ) from None
        finally:
            self._cancel(running)

    @property
    def gpus(self) -> int:
        """How many GPUs the cluster has."""
        return int(self._ray.cluster_resources().get("GPU", 0))

    @property
    def _cores(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def on_gpus(self) -> RayEngine:
        """Return the same engine for jobs that need a GPU each."""
        other = copy.copy(self)
        other._gpu_jobs = True
        return other

    def cores_per_job(self) -> int:
        """Return 1, or for a job on a GPU the cluster's cores over its GPUs (at least 1)."""
        return max(1, self._cores // max(1, self.gpus)) if self._gpu_jobs else 1

    def run_in_order(
        self, work: Callable[[JobT], ResultT], jobs: Iterable[JobT]
    ) -> Iterator[tuple[JobT, ResultT | Lost]]:
        """Yield jobs and results in order; see `local.Engine`. A worker process does many jobs, also on a GPU."""
        ray = self._ray
        # Without max_calls=0, Ray ends a process that had a GPU after one task, and with it the network it loaded.
        needs = {"num_cpus": self.cores_per_job(), "num_gpus": int(self._gpu_jobs)}
        task = ray.remote(**needs, max_retries=_RETRIES, max_calls=0)(work)
        at_once = self.gpus if self._gpu_jobs else self._cores
        ahead = self._in_flight or max(2, 2 * at_once)
        queue = iter(jobs)
        running = deque((job, task.remote(job)) for job in itertools.islice(queue, ahead))
        try:
            while running:
                job, reference = running[0]
                self._wait([reference])
                try:
                    result = self._result(reference)
                except _LostJob as lost:
                    result = Lost(str(lost))
                running.popleft()
                running.extend((job, task.remote(job)) for job in itertools.islice(queue, 1))
                yield job, result
        finally:
            self._cancel(reference for _, reference in running)

    def _wait(self, references: list[Any]) -> tuple[list[Any], list[Any]]:
        """Return those that are ready, at least one, and the others; raises ClusterError when the head is gone."""
        while True:
            done, others = self._ray.wait(references, num_returns=1, timeout=_LOOK)
            self._head.look()
            if done:
                return done, others

    def _cancel(self, references: Iterable[Any]) -> None:
        if not self._head.gone:
            for reference in references:
                self._ray.cancel(reference)

    def _result(self, reference: Any) -> Any:  # Ray is not typed
        """Return the result; raises _LostJob when workers died too often."""
        ray = self._ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Miil21kError):
                raise cause from None
            raise EngineError(f"A job failed on the Ray cluster: {type(cause).__name__}: {cause}") from error
        except ray.exceptions.RaySystemError as error:
            raise ClusterError(f"The Ray cluster failed ({_first_line(error)}); {_KEPT}.") from None
        except ray.exceptions.RayError as error:
            raise _LostJob(f"its workers died {_RETRIES + 1} times on the Ray cluster ({_first_line(error)})") from None

    def close(self) -> None:
        """Leave the cluster that was joined here, or stop it where it was started here.

        Ray would do so by itself when the process ends, but sleeps half a second before.
        """
        if self._own:
            self._ray.shutdown()


class _Head:
    """Whether the head of the cluster answers at `address`; None for one that nobody knows.

    Ray itself ends this process after a minute without the head, from C++, and with an exit code that says that inputs
    failed. So it is found out before: a head may be away for half of that time (it restarts, say).
    """

    def __init__(self, address: str | None) -> None:
        self._address = address
        self._seen = self._looked = time.monotonic()
        self._patience = float(os.environ.get(_RECONNECT, "60")) / 2
        self.gone = False

    def look(self) -> None:
        """Look whether the head is there, every now and then; raises ClusterError when it has been away for long."""
        now = time.monotonic()
        if self._address is None or now - self._looked < _LOOK:
            return
        self._looked = now
        fault = _silence(self._address, _LOOK)
        if fault is None:
            self._seen = now
        elif now - self._seen > self._patience:
            self.gone = True
            raise ClusterError(
                f"The head of the Ray cluster at '{self._address}' has not answered for {now - self._seen:.0f} seconds "
                f"({fault}), so the cluster is lost; {_KEPT}, once it is up."
            )


def _ray(address: str) -> Any:  # Ray is not typed
    """Return the module, with the environment that it reads when it is loaded."""
    os.environ.setdefault("RAY_task_oom_retries", str(_RETRIES))  # its own choice is to try for ever
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray uses the token that lies there only for clusters that it finds or starts itself.
    token = any(os.environ.get(name) for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"))
    if address not in ("auto", "local") and (token or (Path.home() / ".ray" / "auth_token").exists()):
        os.environ.setdefault("RAY_AUTH_MODE", "token")
    return need("ray", "ray", "The engine 'ray'")


def _start(ray: Any) -> None:
    os.environ.setdefault("RAY_worker_niceness", "0")  # 15, Ray's own, leaves its workers what others do not want
    try:
        with _loopback():
            ray.init(address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except Exception as error:  # a node that is late on a busy machine is a plain Exception
        raise ClusterError(f"Ray cannot be started on this machine: {_first_line(error)}.") from None


@contextmanager
def _loopback() -> Iterator[None]:
    """Let a cluster that is started meanwhile ask nobody where it is: it lives on the loopback device alone.

    Ray finds its own address by a socket to 8.8.8.8, except where a machine can be no cluster; it has no option that
    says so. Its dashboard, of which one process runs even without, asks the hosts of three clouds whether this is one
    of theirs, also where usage statistics are off.
    """
    from ray._private import node, ray_constants

    known, start = ray_constants.ENABLE_RAY_CLUSTER, node.Node.start_api_server
    told = os.environ.get(ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR)
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"  # for the processes of the cluster
    ray_constants.ENABLE_RAY_CLUSTER = False
    node.Node.start_api_server = lambda *_, **__: None
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER, node.Node.start_api_server = known, start
        if told is None:
            del os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR]
        else:
            os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = told


def _join(ray: Any, address: str) -> str:
    """Join the cluster at `address`; return the address of its head."""
    if address.startswith("ray://") and importlib.util.find_spec("grpc") is None:
        raise ClusterError(
            f"'{address}' needs the client of Ray, which is not installed: pip install 'ray[client]', or run on a "
            "machine of the cluster with --address auto."
        )
    where = _found_here() if address == "auto" else address
    if (fault := _silence(where, _PATIENCE)) is not None:
        known = ", the last one that was started here," if address == "auto" else ""
        raise ClusterError(
            f"No Ray cluster at '{where}': {fault}. The cluster{known} has ended, or cannot be reached from here: give "
            "the --address of one that runs, or leave it out to start one on this machine."
        )
    with _errors_held() as held:
        try:
            ray.init(address=where, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
            held.seek(0)
            if b"Unauthenticated" in held.read() or type(error).__name__ == "AuthenticationError":
                raise ClusterError(
                    f"The Ray cluster at '{where}' asks for a token that is missing or wrong here: set "
                    "RAY_AUTH_MODE=token and RAY_AUTH_TOKEN (or ~/.ray/auth_token) to that of its head."
                ) from None
            raise ClusterError(f"No Ray cluster at '{where}': {_first_line(error)}.") from None
    return where


def _found_here() -> str:
    """Return the address of the cluster of this machine, which Ray notes in a file, and leaves there."""
    from ray._private.services import canonicalize_bootstrap_address

    try:
        found = canonicalize_bootstrap_address("auto")
    except ConnectionError:
        found = None
    if not found:
        raise ClusterError(
            "No Ray cluster runs on this machine (--address auto): start one with 'ray start --head', give HOST:PORT, "
            "or leave --address out to start one for this run."
        )
    return str(found)


def _silence(address: str, seconds: float) -> str | None:
    """Return why nothing answers at `host:port`, None when something does; Ray itself would try for many minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=seconds).close()
    except (OSError, OverflowError) as error:
        return str(getattr(error, "strerror", None) or error)
    return None


@contextmanager
def _errors_held() -> Iterator[IO[bytes]]:
    """Hold back what is printed to standard error, by C++ too; gives the file that has it instead."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield held
        finally:
            os.dup2(kept, 2)
            os.close(kept)


class _LostJob(EngineError):
    """A job was given up."""


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
