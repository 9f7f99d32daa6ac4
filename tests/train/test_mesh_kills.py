"""Processes that share a run, one of which is killed at random moments: started again, the run ends with its bits."""

import faulthandler
import json
import os
import random
import signal
import time
from contextlib import suppress
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from monosem.base.group import ALONE
from monosem.methods import method
from monosem.train.loop import fit
from monosem.train.mesh import Processes
from monosem.train.state import Run
from tests.networks.shared import bytes_of, stored, stream, watched_network
from tests.train.scenes import SCENES, STEPS, Scene
from tests.train.victims import CONTEXT, contents

pytestmark = pytest.mark.slow

KILLS, SEED = (
    int(os.environ.get(name, given)) for name, given in (("MONOSEM_KILLS", "2"), ("MONOSEM_KILLS_SEED", "0"))
)
"""How many, for each scene and number of processes; and which moments."""
PATIENCE = 120.0
"""Seconds after which processes that should have ended hang: they then say where, and the test fails."""


def _network(folder: Path) -> Scene:
    """Rows of a network that runs as the run goes on, from the cursor beside the run's folder."""
    live = stream(Processes(), [], normalise=True, cursor=folder.with_suffix(".json"))
    made = Scene(method("topk_transcoder(k=3)"), live)
    return replace(made, config=replace(made.config, sample_rows=30))


def _store(rank: int, size: int, meet: Path, dies: bool, folder: Path) -> None:
    """A share of a store; the last process dies in the middle, where it is to."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=size)
    ran: list[tuple[int, ...]] = []
    network = watched_network(ran)
    if dies and rank == size - 1:
        network.register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL) if len(ran) > 4 else None)
    stored(Processes(), folder, network)
    dist.barrier()
    dist.destroy_process_group()


def _rank(rank: int, size: int, meet: Path, scene: str, folder: Path, gate: Connection) -> None:
    torch.set_num_threads(1)
    faulthandler.register(signal.SIGUSR1)
    dist.init_process_group("gloo", f"file://{meet}", rank=rank, world_size=size)
    made = _network(folder) if scene == "a network" else SCENES[scene]()

    def trains(run: Run, entry: dict[str, float]) -> None:
        gate.send(run.step)

    fit(
        made.method, made.source, made.n_q, made.config, made.anchors,
        out=folder, mesh=f"latents={size}", callbacks=[trains],
    )  # fmt: skip
    dist.barrier()
    dist.destroy_process_group()


class _Several:
    """Processes that share a run."""

    def __init__(self, size: int, scene: str, folder: Path) -> None:
        meet = folder.with_name(f"meet-{time.monotonic_ns()}")
        pipes = [CONTEXT.Pipe(duplex=False) for _ in range(size)]
        self.gates = [ours for ours, _ in pipes]
        self.processes: list[ForkServerProcess] = []
        for rank, (_, gate) in enumerate(pipes):
            process = CONTEXT.Process(target=_rank, args=(rank, size, meet, scene, folder, gate))
            process.start()
            gate.close()
            self.processes.append(process)

    def train(self, until: int) -> None:
        """Until all of them are at a step, or have nothing to train any more."""
        for gate in self.gates:
            with suppress(EOFError):
                step = 0
                while step < until:
                    if not gate.poll(PATIENCE):
                        self._hang(f"after step {step}")
                    step = gate.recv()

    def end(self, when: str) -> list[int | None]:
        """Their exit codes, when they have ended by themselves."""
        limit = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0.0, limit - time.monotonic()))
            if process.exitcode is None:
                self._hang(when)
        for gate in self.gates:
            gate.close()
        return [process.exitcode for process in self.processes]

    def _hang(self, when: str) -> None:
        """Let them say where they are, and fail."""
        alive = [process for process in self.processes if process.is_alive()]
        for process in alive:
            os.kill(process.pid or 0, signal.SIGUSR1)
        time.sleep(1)
        for process in alive:
            process.kill()
        pytest.fail(f"{len(alive)} of {len(self.processes)} processes hang {when}")


def _finish(size: int, scene: str, folder: Path) -> tuple[float, float]:
    """Run to the end; how long it took to the first step, and from one logged step to the next."""
    began = time.monotonic()
    several = _Several(size, scene, folder)
    several.train(1)
    met = time.monotonic()
    assert several.end("at the end") == [0] * size
    return met - began, (time.monotonic() - met) / STEPS * 2


def test_a_store_goes_on_after_a_process_is_killed(tmp_path: Path) -> None:
    folder, whole = tmp_path / "several", tmp_path / "one"
    for size, dies in ((2, True), (3, False)):
        meet = tmp_path / f"meet-{size}"
        processes = [CONTEXT.Process(target=_store, args=(rank, size, meet, dies, folder)) for rank in range(size)]
        for process in processes:
            process.start()
        processes[-1].join(PATIENCE)
        if dies:
            processes[0].kill()
            assert not json.loads((folder / "manifest.json").read_text())["complete"]
        for process in processes:
            process.join(PATIENCE)
        assert processes[-1].exitcode == (-signal.SIGKILL if dies else 0)
    stored(ALONE, whole)
    assert bytes_of(folder) == bytes_of(whole)


@pytest.mark.parametrize(("scene", "size"), [("batch_topk", 2), ("a network", 2)])
def test_processes_that_are_killed_change_no_bit(scene: str, size: int, tmp_path: Path) -> None:
    """One is killed; the others, if they train, end by themselves or are killed, as torchrun does; all start again."""
    whole, again, chance = tmp_path / "whole", tmp_path / "again", random.Random(f"{scene} {size} {SEED}")
    (before, after), kills = _finish(size, scene, whole), 0
    wanted = contents(whole)
    while kills < KILLS:
        several, trains = _Several(size, scene, again), chance.random() < 0.8
        if trains:
            several.train(chance.randrange(1, STEPS))
        time.sleep(chance.uniform(0.0, after if trains else before))
        victim = chance.choice(several.processes)
        victim.kill()
        for process in several.processes if chance.random() < 0.5 or not trains else ():
            process.kill()
        codes = several.end("after one was killed")
        kills += -signal.SIGKILL in codes
        if (again / "model.safetensors").exists() and kills < KILLS:  # it was over: once more from the start
            if any(codes):
                _finish(size, scene, again)
            assert contents(again) == wanted
            again = tmp_path / f"again-{kills}-{time.monotonic_ns()}"
    _finish(size, scene, again)
    assert contents(again) == wanted
