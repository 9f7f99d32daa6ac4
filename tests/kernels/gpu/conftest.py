"""What the tests of Triton programs share."""

import importlib.util
import inspect
from collections.abc import Iterator
from functools import cache
from types import SimpleNamespace

import pytest

from tests.kernels.gpu.where import DEVICE


@pytest.fixture(autouse=True, scope="session")
def _names_are_listed_once() -> Iterator[None]:
    """Triton's interpreter lists the names of its language before every launch, a quarter of the time of a test."""
    if DEVICE == "cuda" or importlib.util.find_spec("triton") is None:
        yield
        return
    from triton.runtime import interpreter

    interpreter.inspect = SimpleNamespace(**{**vars(inspect), "getmembers": cache(inspect.getmembers)})
    yield
    interpreter.inspect = inspect
