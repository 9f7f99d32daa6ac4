"""The errors monosem raises.

Drawn as a tree::

    MonosemError
    ├── ArgumentError      (ValueError)   an argument's value is wrong
    │   ├── ShapeError                    two shapes that must agree do not
    │   ├── DataError                     data hold NaN, infinity, no rows, the wrong type ...
    │   └── UnknownNameError (KeyError)   a name is in no registry
    ├── RefusedError       (ValueError)   a combination that the mathematics forbids
    ├── GeneratorError     (RuntimeError) a data generator cannot reach what was asked
    ├── AbsentError        (RuntimeError) a download is not there; what needs it can be skipped
    ├── CheckpointError    (RuntimeError) a file is damaged, newer, or from another machine
    └── OutputError        (OSError)      an output cannot be written: disk full, read-only, in the way, in use

Every message says what is wrong with both numbers in the paper's names, then the remedy.
"""

LONGEST = 2000
"""Characters of a message; a file can hold a name of megabytes."""


def shortened(text: str, most: int = 200) -> str:
    """A text of at most `most` characters: its beginning and its end, where it is longer."""
    return text if len(text) <= most else f"{text[: most - most // 4 - 5]} ... {text[-(most // 4) :]}"


class MonosemError(Exception):
    """Any error that monosem raises on purpose; its message has at most LONGEST characters."""

    def __init__(self, message: str = "") -> None:
        super().__init__(shortened(str(message), LONGEST))


class ArgumentError(MonosemError, ValueError):
    """An argument's value is wrong."""


class ShapeError(ArgumentError):
    """Two shapes that must agree do not."""


class DataError(ArgumentError):
    """Data cannot be used: NaN, infinity, wrong rank, no rows, not numbers."""


class UnknownNameError(ArgumentError, KeyError):
    """A name is in no registry."""

    __str__ = Exception.__str__  # KeyError would print the repr of the message


class RefusedError(MonosemError, ValueError):
    """A combination of values that the mathematics forbids; the message says why."""


class GeneratorError(MonosemError, RuntimeError):
    """A data generator cannot reach what its specification asks."""


class AbsentError(MonosemError, RuntimeError):
    """Something to download is not in the cache, or its registry does not answer: skip what needs it."""


class CheckpointError(MonosemError, RuntimeError):
    """A saved file is damaged, too new, or was written under other conditions."""


class OutputError(MonosemError, OSError):
    """An output cannot be written: the disk is full or read-only, something is in the way, another process has it."""

    __str__ = Exception.__str__


def check(condition: bool, message: str, error: type[MonosemError] = ArgumentError) -> None:
    """Raise `error(message)` unless `condition` holds."""
    if not condition:
        raise error(message)
