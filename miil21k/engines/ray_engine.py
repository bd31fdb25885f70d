"""The same work on a Ray cluster: jobs go to any node, and are done again when a node dies."""

from __future__ import annotations

import itertools
import logging
from typing import TYPE_CHECKING, Any, TypeVar

from miil21k.errors import Miil21kError, MissingExtra, PrepareError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

__all__ = ["RayEngine"]

Job = TypeVar("Job")
Result = TypeVar("Result")

_RETRIES = 8  # per job; a node that dies takes its jobs with it


class RayEngine:
    """Runs every job as a Ray task of one core; source and target must lie on storage that all nodes see.

    address: of the cluster (`auto`, `host:6379`, `ray://host:10001`); None starts one on this machine.
    in_flight: jobs that are queued at once; None is twice the cores of the cluster.
    Raises MissingExtra without Ray, PrepareError when the cluster cannot be reached.
    """

    def __init__(self, address: str | None = None, in_flight: int | None = None) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtra("ray", "ray", "The engine 'ray'") from None
        self._ray: Any = ray
        self._in_flight = in_flight
        if not ray.is_initialized():
            try:
                ray.init(
                    address=address,
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    include_dashboard=False if address is None else None,
                )
            except (ConnectionError, ValueError, RuntimeError) as error:
                raise PrepareError(f"No Ray cluster at '{address}': {str(error).splitlines()[0]}") from None

    def run(self, work: Callable[[Job], Result], jobs: Iterable[Job]) -> Iterator[Result]:
        """Yield results as they are ready; see `local.Engine`. Raises PrepareError when a job died too often."""
        ray = self._ray
        task = ray.remote(num_cpus=1, max_retries=_RETRIES)(work)
        ahead = self._in_flight or max(2, 2 * int(ray.cluster_resources().get("CPU", 1)))
        queue = iter(jobs)
        running = [task.remote(job) for job in itertools.islice(queue, ahead)]
        try:
            while running:
                done, running = ray.wait(running, num_returns=1)
                for result in done:
                    yield self._result(result)
                running += [task.remote(job) for job in itertools.islice(queue, len(done))]
        finally:
            for reference in running:
                ray.cancel(reference)

    def _result(self, reference: Any) -> Any:  # Ray is not typed
        ray = self._ray
        try:
            return ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            cause = error.cause
            if isinstance(cause, Miil21kError):
                raise cause from None
            raise PrepareError(f"A job failed on the Ray cluster: {type(cause).__name__}: {cause}") from error
        except ray.exceptions.RayError as error:
            reason = str(error).strip().splitlines()[0]
            raise PrepareError(
                f"A job on the Ray cluster died {_RETRIES + 1} times ({reason}): run the same command again, "
                "finished classes are kept."
            ) from None

    def close(self) -> None:
        """Leave the cluster, or stop the one that was started here."""
        self._ray.shutdown()
