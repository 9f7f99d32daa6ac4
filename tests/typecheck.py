"""The run-time type checker of the tests: beartype with PEP 484's rule that an int may stand where a float may."""

import functools
import inspect
import itertools
import os
from typing import Any

import jaxtyping
from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))

FIRST, EVERY = 4, 64
"""Calls of a function in one test that are all checked, and of how many later ones one is."""
_tests = itertools.count(1)
_test = 0


def install() -> None:
    """Check arguments and results of monosem's functions, shapes and all.

    A function that a test has called some times is checked now and then only, which shortens the suite; which calls
    are checked hangs on the test alone, not on those before it. `MONOSEM_TYPECHECK=all` checks every call.
    """
    if os.environ.get("MONOSEM_TYPECHECK") == "all":
        jaxtyping.install_import_hook("monosem", f"{__name__}.checked")
        return
    jaxtyping.jaxtyped = _sampled
    jaxtyping._decorator.jaxtyped = _sampled  # which it calls for the parts of classes and properties
    jaxtyping.install_import_hook("monosem", f"{__name__}.checked")


def next_test() -> None:
    """Count calls anew."""
    global _test
    _test = next(_tests)


_whole = jaxtyping.jaxtyped


def _sampled(fn: Any = None, **how: Any) -> Any:
    """jaxtyped, for some of a function's calls."""
    if fn is None:
        return functools.partial(_sampled, **how)
    if not inspect.isfunction(fn):
        return _whole(fn, **how)
    whole = functools.cache(lambda: _whole(fn, **how))  # made when it is first called: most functions never are
    calls, seen = itertools.count(), 0

    @functools.wraps(fn)
    def sometimes(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls, seen
        if seen != _test:
            calls, seen = itertools.count(), _test
        call = next(calls)
        return (whole() if call < FIRST or call % EVERY == 0 else fn)(*args, **kwargs)

    return sometimes
