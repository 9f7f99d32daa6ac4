"""Processes that share a run, one of which is killed at random moments: started again, the run ends with its bits."""

import os
import random
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from monosem.train.loop import fit
from tests.train.scenes import SCENES
from tests.train.victims import CONTEXT, contents

pytestmark = pytest.mark.slow

KILLS = int(os.environ.get("MONOSEM_KILLS", "2"))
"""How many, for each scene and number of processes."""


def _rank(rank: int, size: int, meet: Path, scene: str, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=size)
    made = SCENES[scene]()
    fit(made.method, made.source, made.n_q, made.config, made.anchors, out=folder, mesh=f"latents={size}")
    dist.barrier()
    dist.destroy_process_group()


def _start(size: int, scene: str, folder: Path) -> list[ForkServerProcess]:
    meet = folder.with_name(f"meet-{time.monotonic_ns()}")
    processes = [CONTEXT.Process(target=_rank, args=(rank, size, meet, scene, folder)) for rank in range(size)]
    for process in processes:
        process.start()
    return processes


def _finish(size: int, scene: str, folder: Path) -> float:
    """Run to the end; how long that took."""
    began, processes = time.monotonic(), _start(size, scene, folder)
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * size
    return time.monotonic() - began


@pytest.mark.parametrize(("scene", "size"), [("batch_topk", 2)])
def test_processes_that_are_killed_change_no_bit(scene: str, size: int, tmp_path: Path) -> None:
    """One process is killed; the others end then, as torchrun has it, and all start again where the run is not over."""
    whole, again, chance = tmp_path / "whole", tmp_path / "again", random.Random(f"{scene} {size}")
    seconds, kills = _finish(size, scene, whole), 0
    while kills < KILLS:
        processes = _start(size, scene, again)
        time.sleep(chance.uniform(0.0, seconds))
        victim = chance.choice(processes)
        kills += victim.is_alive()
        victim.kill()
        for process in processes:
            process.kill()
            process.join()
        if (again / "model.safetensors").exists() and kills < KILLS:  # it was over: once more from the start
            assert contents(again).keys() >= contents(whole).keys()
            again = tmp_path / f"again-{kills}-{time.monotonic_ns()}"
    _finish(size, scene, again)
    assert contents(again) == contents(whole)
