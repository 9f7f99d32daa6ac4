"""What every test shares: shapes checked at run time, one thread, seeded generators, a modest hypothesis profile."""

import os
import signal
from collections.abc import Iterator

import hypothesis
import jaxtyping
import pytest
import torch

import tests.typecheck

if os.environ.get("MONOSEM_NO_TYPECHECK") != "1":
    tests.typecheck.install()

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is imported, which any test module's imports may do

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background: processes would inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

torch.set_num_threads(1)

hypothesis.settings.register_profile("monosem", deadline=None, max_examples=25, print_blob=True)
hypothesis.settings.load_profile("monosem")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that forgets to seed still sees the same numbers every time, and the same calls are checked."""
    torch.manual_seed(0)
    tests.typecheck.next_test()


@pytest.fixture
def as_in_production() -> Iterator[None]:
    """Without the shape checks of the tests, which would speak up before the library's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
