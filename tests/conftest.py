"""What every test shares: shapes checked at run time, one thread, seeded generators, a modest hypothesis profile."""

import os

import hypothesis
import jaxtyping
import pytest
import torch

if os.environ.get("MONOSEM_NO_TYPECHECK") != "1":
    jaxtyping.install_import_hook("monosem", "beartype.beartype")

torch.set_num_threads(1)

hypothesis.settings.register_profile("monosem", deadline=None, max_examples=25, print_blob=True)
hypothesis.settings.load_profile("monosem")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """A test that forgets to seed still sees the same numbers every time."""
    torch.manual_seed(0)
