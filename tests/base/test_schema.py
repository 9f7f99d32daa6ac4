"""Dataclasses from JSON: what fits is read, what does not is named by its path."""

from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from monosem.base.errors import CheckpointError, DataError
from monosem.base.schema import Sha256, Size, read


@dataclass(frozen=True)
class Inner:
    rows: Size
    hashes: dict[str, Sha256]


@dataclass(frozen=True)
class Outer:
    name: str
    kind: Literal["a", "b"]
    shards: list[Inner]
    at: tuple[int, float]
    names: tuple[str, ...] | None
    free: dict[str, Any] = field(default_factory=dict)
    rate: float | None = None


GOOD: dict[str, Any] = {
    "name": "x",
    "kind": "b",
    "shards": [{"rows": 1, "hashes": {"f": "0" * 64}}],
    "at": [1, 2],
    "names": ["y"],
    "rate": 1,
}


def test_what_fits_is_read() -> None:
    made = read(Outer, GOOD, "f.json")
    assert made == Outer("x", "b", [Inner(1, {"f": "0" * 64})], (1, 2), ("y",), {}, 1)
    assert read(Outer, GOOD | {"names": None, "free": {"a": [None]}}, "f.json").names is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": 3}, "name is 3, not a text"),
        ({"kind": "c"}, "kind is 'c', not one of 'a', 'b'"),
        ({"shards": {}}, "shards is {}, not a list"),
        ({"shards": [{"rows": 0, "hashes": {}}]}, r"shards\[0\].rows is 0, not 1 or more"),
        ({"shards": [{"rows": True, "hashes": {}}]}, r"shards\[0\].rows is True, not a whole number"),
        ({"shards": [{"rows": 1}]}, r"shards\[0\].hashes is missing, not to be left out"),
        ({"shards": [{"rows": 1, "hashes": {"f": "0"}}]}, r"shards\[0\].hashes.f is '0', not a sha256"),
        ({"at": [1]}, r"at is \[1\], not a list of 2"),
        ({"at": [1.5, 1]}, r"at\[0\] is 1.5, not a whole number"),
        ({"names": ["y", 2]}, r"names\[1\] is 2, not a text"),
        ({"names": 2}, "names is 2, not a list or null"),
        ({"rate": float("inf")}, "rate is inf, not a finite number or null"),
        ({"rate": 10**400}, "rate is 1000.* not a finite number or null"),
        ({"more": 1}, "more is 1, not a field that is known"),
        ({"name": ["x" * 10**6]}, r"name is \['xxx.{20,80}, not a text"),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, Any], said: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^f.json: {said}"):
        read(Outer, GOOD | change, "f.json")


@pytest.mark.parametrize("value", [None, [], 3, "x"])
def test_no_object_at_all(value: Any) -> None:
    with pytest.raises(DataError, match=r"f.json: it is .*, not an object"):
        read(Outer, value, "f.json", DataError)
