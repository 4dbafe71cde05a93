"""The stages on Ray Data: many processes, on one machine or many. The only file that imports ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow

from nemotron_rag.batch.job import Job, Stage
from nemotron_rag.batch.rows import Row, from_table, to_table
from nemotron_rag.batch.workers import Machine, Pools, Workers, plan_pools
from nemotron_rag.errors import InputError, MissingExtraError

try:
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Dataset
except ImportError as error:
    raise MissingExtraError("ray", "ray") from error

__all__ = ["Cluster", "cluster"]

_STORE_SHARE = 0.25  # of the object store's memory that blocks on their way may take
_AHEAD = 2  # batches that wait at a worker


@contextmanager
def cluster(workers: Workers, *, is_shared: bool) -> Iterator[Cluster]:
    """A cluster with room for the workers: the one at `Workers.address`, one that is connected, or a new one here.

    Args:
        workers: what is wanted.
        is_shared: whether many processes may write to the index.

    Raises:
        InputError: the workers do not fit.
    """
    if workers.address is None and not ray.is_initialized():
        plan_pools(workers, [Machine(os.cpu_count() or 1, _gpus_here())], is_shared=is_shared)  # before it is started
    begun = _connect(workers.address)
    try:
        yield Cluster(workers, plan_pools(workers, _machines(), is_shared=is_shared))
    finally:
        if begun:
            ray.shutdown()


class Cluster:
    """Runs stages on the machines of a cluster.

    Args:
        workers: as they were asked for.
        pools: as they fit.
    """

    def __init__(self, workers: Workers, pools: Pools) -> None:
        self._workers, self.pools = workers, pools

    def call(self, function: Callable[[], Any]) -> Any:
        """Call a function where a worker that embeds would run, and return what it returns."""
        task = ray.remote(num_cpus=self.pools.cpus, num_gpus=self.pools.gpus, max_retries=3)(_call)
        try:
            return ray.get(task.remote(function, self._threads))
        except ray.exceptions.RayTaskError as error:
            raise _cause(error) from None

    def run(self, job: Job) -> Generator[list[Row], None, None]:
        """The rows that come out of the last stage of a job, in no particular order."""
        with _settings():
            data = self._embedded(self._sources(job), job.embed)
            if job.write is not None and self.pools.write:
                data = data.map_batches(
                    _worker(job.write, name="Write"),
                    batch_size=self._workers.batch,
                    batch_format="pyarrow",
                    num_cpus=0,
                    compute=_pool(self.pools.write),
                )
            try:
                for table in data.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
                    yield from_table(table)
            except ray.exceptions.RayTaskError as error:
                raise _cause(error) from None

    def _sources(self, job: Job) -> Dataset:
        datasets, spans, pages = [], job.spans, job.pages
        if spans:
            # One block a span: a worker takes the next one when it is done, and a block stays small.
            rows = ray.data.from_items(list(spans), override_num_blocks=len(spans))
            datasets.append(
                rows.map_batches(
                    _worker(job.render, name="Render"),
                    batch_size=None,
                    batch_format="pyarrow",
                    num_cpus=1,
                    compute=_pool(min(self.pools.render, len(spans))),
                )
            )
        if pages:
            size = self._workers.batch
            datasets.append(ray.data.from_arrow([to_table(pages[at : at + size]) for at in range(0, len(pages), size)]))
        return datasets[0] if len(datasets) == 1 else datasets[0].union(*datasets[1:])

    def _embedded(self, rows: Dataset, embed: Callable[[], Stage]) -> Dataset:
        return rows.map_batches(
            _worker(embed, self._threads, name="Embed"),
            batch_size=self._workers.batch,
            batch_format="pyarrow",
            num_cpus=self.pools.cpus,
            num_gpus=self.pools.gpus or None,
            compute=_pool(self.pools.embed),
        )

    @property
    def _threads(self) -> int:
        """For a worker that embeds without a GPU: Ray gives a process one thread a CPU that it asked for."""
        return 1 if self.pools.gpus else max(1, (os.cpu_count() or 1) // self.pools.embed)


def _worker(make: Callable[[], Stage], threads: int = 1, *, name: str) -> type:
    """A class that runs a stage in a process of its own; Ray shows its name.

    What it needs is in the class, not in arguments: Ray loses arguments when it starts a worker again.
    """

    class Worker:
        def __init__(self) -> None:
            _set_threads(threads)
            self._stage = make()

        def __call__(self, table: pyarrow.Table) -> pyarrow.Table:
            return to_table(self._stage(from_table(table)))

    Worker.__name__ = Worker.__qualname__ = name
    return Worker


def _pool(size: int) -> ActorPoolStrategy:
    return ActorPoolStrategy(size=size, max_tasks_in_flight_per_actor=_AHEAD)


def _call(function: Callable[[], Any], threads: int) -> Any:
    _set_threads(threads)
    return function()


def _set_threads(threads: int) -> None:
    """For libraries that read it when they are imported, such as PyTorch."""
    if threads > 1:
        os.environ["OMP_NUM_THREADS"] = str(threads)


def _connect(address: str | None) -> bool:
    """Connect, or start a cluster here; returns whether that is to be undone."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # it warns of its own workers
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    try:
        if address is None:
            ray.init(address="local", include_dashboard=False, **quiet)
        else:
            ray.init(address=address, **quiet)
    except ConnectionError as error:
        raise InputError(
            f"there is no Ray cluster at {address!r}: {error}; start one, or leave the address out"
        ) from error
    return True


def _machines() -> list[Machine]:
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Machine(found.get("CPU", 0), found.get("GPU", 0)) for found in alive]


def _gpus_here() -> int:
    """GPUs that this process may use, without asking a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return len([name for name in visible.split(",") if name.strip() not in ("", "-1", "NoDevFiles")])
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


@contextmanager
def _settings() -> Iterator[None]:
    """Ray Data's own for this run: no bars, memory bounded, errors without Ray's stack."""
    context = DataContext.get_current()
    before = (context.enable_progress_bars, context.execution_options.resource_limits)
    memory = ray.cluster_resources().get("object_store_memory", 0)
    context.enable_progress_bars = False
    limits = context.execution_options.resource_limits.copy(object_store_memory=memory * _STORE_SHARE)
    context.execution_options.resource_limits = limits
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    try:
        yield
    finally:
        context.enable_progress_bars, context.execution_options.resource_limits = before


def _cause(error: ray.exceptions.RayTaskError) -> BaseException:
    """The error that a stage raised, without Ray's around it."""
    cause: BaseException = error
    while isinstance(cause, ray.exceptions.RayTaskError) and isinstance(cause.cause, BaseException):
        cause = cause.cause
    return cause
