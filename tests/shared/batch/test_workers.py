"""Which plans fit which machines."""

from __future__ import annotations

import pytest

from nemotron_rag.batch.workers import Machine, Pools, Workers, plan_pools
from nemotron_rag.errors import InputError


@pytest.mark.parametrize(
    ("workers", "machines", "pools"),
    [
        (Workers(), [Machine(2)], Pools(1, 1, 0, 1, 0)),
        (Workers(), [Machine(16, 1)], Pools(15, 1, 0, 1, 1)),
        (Workers(), [Machine(16, 4), Machine(16, 4)], Pools(24, 8, 0, 1, 1)),
        (Workers(gpus=0.5), [Machine(8, 1)], Pools(6, 2, 0, 1, 0.5)),
        (Workers(embed=1, write=2, render=3), [Machine(8, 2)], Pools(3, 1, 2, 1, 1)),
        (Workers(gpus=0), [Machine(8, 1)], Pools(7, 1, 0, 1, 0)),
    ],
)
def test_what_is_left_out_is_what_fits(workers, machines, pools):
    assert plan_pools(workers, machines, is_shared=True) == pools


@pytest.mark.parametrize(
    ("workers", "machines", "message"),
    [
        (Workers(embed=2), [Machine(2)], "3 CPUs"),  # nobody could render
        (Workers(), [Machine(1)], "2 CPUs"),
        (Workers(gpus=1), [Machine(8)], "the cluster has 0"),
        (Workers(embed=3, gpus=1), [Machine(8, 2)], "3 GPUs"),
        (Workers(cpus=8), [Machine(4), Machine(5)], "8 CPUs"),  # no worker is spread over two machines
        (Workers(render=9), [Machine(4)], "10 CPUs"),
    ],
)
def test_a_plan_that_cannot_run_is_refused(workers, machines, message):
    with pytest.raises(InputError, match=message):
        plan_pools(workers, machines, is_shared=True)


def test_one_process_writes_to_a_folder():
    with pytest.raises(InputError, match="one process writes to a folder"):
        plan_pools(Workers(write=1), [Machine(8)], is_shared=False)
    assert plan_pools(Workers(write=0), [Machine(8)], is_shared=False).write == 0


@pytest.mark.parametrize(
    "wrong", [{"embed": 0}, {"gpus": -1}, {"span": 1.5}, {"batch": True}, {"cpus": 0}, {"write": -1}]
)
def test_numbers_that_make_no_sense(wrong):
    with pytest.raises(InputError, match="Workers"):
        Workers(**wrong)
