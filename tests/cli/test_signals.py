"""Ctrl-C and SIGTERM at any moment, also where others' C code loses the KeyboardInterrupt: one line, 130 or 143."""

import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from monosem.base.tensors import read_stored
from tests.cli.calls import environment

PROGRAM = """
import json, os, signal, sys, typing
from monosem.cli import guarded
import monosem.cli.app as app

def blow(*_, **__):
    os.kill(os.getpid(), signal.{number})
    for _ in range(1000): pass

class Destroyed:
    __del__ = blow

def swallowed(*_, **__):
    try: blow()
    except KeyboardInterrupt: raise ValueError("no shape") from None

def in_a_destructor(*_, **__):
    Destroyed()

{place} = {how}
sys.argv = {words}
guarded(app.app)
"""


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
@pytest.mark.parametrize("how", ["blow", "swallowed", "in_a_destructor"])
@pytest.mark.parametrize("place", ["app.app", "app.import_module", "typing.get_type_hints", "json.loads"])
def test_a_signal_ends_a_command_in_one_line(place: str, how: str, number: str, code: int) -> None:
    """While the command line starts, while a command is imported, and while it runs."""
    words = ["monosem", "list", "tasks"]
    program = PROGRAM.format(number=number, place=place, how=how, words=words)
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert (ran.returncode, ran.stderr.splitlines()) == (code, ["interrupted"]), ran.stderr


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_while_tensors_are_read_is_a_keyboard_interrupt(tmp_path: Path) -> None:
    """An alarm at every moment of reading is the error that its handler raises, and no other."""
    path, rng, came = tmp_path / "a.safetensors", np.random.default_rng(0), 0
    save_file({f"a{i}": torch.zeros(3) for i in range(40)}, path)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for _ in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-4, 4e-3))
                [stored.get() for stored in read_stored(path).values()]
                signal.setitimer(signal.ITIMER_REAL, 0)
            except KeyboardInterrupt:
                came += 1
    finally:
        signal.signal(signal.SIGALRM, before)
    assert came > 10
