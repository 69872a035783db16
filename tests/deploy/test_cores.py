"""The number of threads comes from cores, not from hyper-threads, and heeds a container's quota."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import cores


def test_hyper_threads_are_one_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2, 3, 5})
    for cpu, siblings in enumerate(["0,4", "1,5", "2,6", "3,7", "0,4", "1,5"]):
        (tmp_path / f"cpu{cpu}" / "topology").mkdir(parents=True)
        (tmp_path / f"cpu{cpu}" / "topology" / "thread_siblings_list").write_text(siblings + "\n")
    assert cores.physical_cores(tmp_path) == 4
    assert cores.physical_cores(tmp_path / "nothing") == 5


@pytest.mark.parametrize(("text", "cpus"), [("150000 100000\n", 2), ("20000 100000", 1), ("max 1", 1 << 16)])
def test_the_quota_of_a_container(tmp_path: Path, text: str, cpus: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cores._quota(tmp_path / "cpu.max") == cpus


@pytest.mark.parametrize(("physical", "quota", "threads"), [(1, 99, 1), (2, 99, 1), (16, 99, 15), (16, 4, 3)])
def test_one_core_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch, physical: int, quota: int, threads: int
) -> None:
    monkeypatch.setattr(cores, "physical_cores", lambda: physical)
    monkeypatch.setattr(cores, "_quota", lambda: quota)
    assert cores.compute_threads() == threads
