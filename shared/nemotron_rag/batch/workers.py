"""How many workers run the stages, with which share of a machine; and whether that can run at all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

from nemotron_rag.errors import InputError

__all__ = ["Machine", "Pools", "Workers", "plan_pools"]

_CPU, _GPU = 1.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workers:
    """How an engine shares the work out; None is what fits the machines.

    Args:
        address: of the cluster: ``"auto"`` for the one this machine belongs to, or ``"ray://host:10001"``; None for one
            that is started here and ends with the run.
        render: processes that render pages, one CPU each.
        embed: processes that embed; None for one a GPU, or one in all without GPUs.
        gpus: of a process that embeds, such as 0.5 for two on a GPU; None for 1 where there are GPUs, 0 elsewhere.
        cpus: of a process that embeds.
        write: processes that write to a server; 0 for this process, which writes to a folder in any case.
        batch: pages embedded and written together.
        span: pages of one document that are read together.

    Raises:
        InputError: a number makes no sense.

    Example:
        >>> Workers(embed=2, gpus=0.5).batch
        16
    """

    address: str | None = None
    render: int | None = None
    embed: int | None = None
    gpus: float | None = None
    cpus: float = _CPU
    write: int | None = None
    batch: int = 16
    span: int = 8

    def __post_init__(self) -> None:
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name == "address" or value is None:
                continue
            whole = each.name not in ("gpus", "cpus")
            least = 0 if each.name in ("gpus", "write") else 1 if whole else 0.01
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float) or value < least:
                kind = "an integer" if whole else "a number"
                raise InputError(f"Workers.{each.name} must be {kind} of at least {least}, got {value!r}")


@dataclass(frozen=True, slots=True)
class Machine:
    """What one machine of a cluster has.

    Args:
        cpus: its CPUs.
        gpus: its GPUs.
    """

    cpus: float
    gpus: float = 0


@dataclass(frozen=True, slots=True)
class Pools:
    """How many workers there will be.

    Args:
        render: at most so many at once.
        embed: so many, each with `cpus` and `gpus`.
        write: so many; 0 for the process that runs it all.
        cpus: of a worker that embeds.
        gpus: of a worker that embeds.
    """

    render: int
    embed: int
    write: int
    cpus: float
    gpus: float


def plan_pools(workers: Workers, machines: Sequence[Machine], *, is_shared: bool) -> Pools:
    """The workers that fit.

    A pool that takes every CPU would wait for pages that nobody has a CPU to render, without a word, so such a plan is
    refused here.

    Args:
        workers: what was asked for.
        machines: of the cluster.
        is_shared: whether many processes may write to the index.

    Raises:
        InputError: it cannot run on these machines.
    """
    cpus, gpus = sum(machine.cpus for machine in machines), sum(machine.gpus for machine in machines)
    share = workers.gpus if workers.gpus is not None else (_GPU if gpus else 0.0)
    if share > gpus:
        raise InputError(f"a worker with {share:g} GPUs was asked for, the cluster has {gpus:g}; lower Workers.gpus")
    if workers.write and not is_shared:
        raise InputError("one process writes to a folder; leave out Workers.write, or give the url of a Qdrant server")
    fit = sum(_fitting(machine, workers.cpus, share) for machine in machines)
    embed = workers.embed or max(1, min(fit, int(gpus / share) if share else 1))
    write = workers.write if workers.write is not None else 0
    needed = embed * workers.cpus + _CPU * (workers.render or 1)
    if not fit or embed > fit or needed > cpus:
        raise InputError(
            f"this plan needs {needed:g} CPUs and {embed * share:g} GPUs ({embed} workers that embed with "
            f"{workers.cpus:g} CPUs and {share:g} GPUs each, {workers.render or 1} that render), the cluster has "
            f"{cpus:g} and {gpus:g}; ask for fewer workers, or give a larger cluster"
        )
    return Pools(workers.render or max(1, int(cpus - embed * workers.cpus)), embed, write, workers.cpus, share)


def _fitting(machine: Machine, cpus: float, gpus: float) -> int:
    """Workers that embed which one machine has room for; a worker is never spread over two."""
    by_cpu = int(machine.cpus / cpus)
    return min(by_cpu, int(machine.gpus / gpus)) if gpus else by_cpu
