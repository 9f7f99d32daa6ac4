"""The records of folders and packed files, read when they are first asked for and found by key."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from monosem.base import read_json
from monosem.bench import read_records
from studies.stored import COMMITTED, read_documents

Record = Mapping[str, Any]


class Records:
    """The runs and documents of some places: folders of loose records, and packed files.

    Of two runs with the same key the later one counts.
    """

    def __init__(self, *places: str | Path) -> None:
        self.places = tuple(map(Path, places))
        self._by: dict[Callable[[Record], Iterable[str]], dict[str, Record]] = {}

    @cached_property
    def every(self) -> list[dict[str, Any]]:
        """Every run, oldest first."""
        places = [place for place in self.places if place.exists() and place != COMMITTED]
        records = [record for place in places for record in read_records(place)]
        return sorted(records, key=lambda record: str(record["created"]))

    def by(self, keys: Callable[[Record], Iterable[str]]) -> Mapping[str, Record]:
        """The runs by the keys that a kind of run gives its records."""
        if keys not in self._by:
            self._by[keys] = {key: record for record in self.every for key in keys(record)}
        return self._by[keys]

    def documents(self, name: str) -> Iterator[Record]:
        """The records of a name, such as "drawn/figure4", that are no runs: those of earlier places first."""
        for place in self.places:
            path = place / f"{name}.json"
            if path.is_file():
                yield read_json(path)
            elif place == COMMITTED and name in read_documents(place):
                yield read_documents(place)[name]
