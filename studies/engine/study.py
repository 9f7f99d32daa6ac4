"""What a study is: runs in rows and arms, the numbers that the paper prints, and how the records are shown."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from monosem import FitConfig
from monosem.base import ArgumentError
from studies.engine.records import Record, Records
from studies.engine.scale import Scale
from studies.stored import packed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from studies.engine.cells import Results
    from studies.engine.tables import Table

Printed = Mapping[tuple[str, str], tuple[float | None, float | None]]
"""What the paper prints: (M_GT in percent, M_IP) by (row, arm), None where it prints none."""
PRINTED_ARMS = ("paper", "paper+anchors")
"""Plain and anchored, as the paper prints its rows."""
Progress = Callable[[Any], None]
"""Told the step that a run has come to, or a line of text for people."""


class Need(Protocol):
    """Something that several runs share and that is made once before they start; a frozen value."""

    @property
    def title(self) -> str:
        """For people."""

    def make(self, folder: Path, progress: Progress) -> None:
        """Make it; what is there already is kept."""


class Run(Protocol):
    """One run of a study: a frozen dataclass that a process can be given."""

    @property
    def method(self) -> str:
        """The method's text."""

    @property
    def arm(self) -> str:
        """What is done to it."""

    @property
    def seed(self) -> int:
        """Of the world and of the training."""

    @property
    def config(self) -> FitConfig:
        """How it is trained."""

    @property
    def key(self) -> str:
        """What tells it apart from all other runs."""

    @property
    def plain_key(self) -> str:
        """The key of the same run without anchors."""

    @property
    def needs(self) -> Need | None:
        """What has to be made before it starts."""

    def find(self, records: Records) -> Record | None:
        """Its record, where it has been run."""

    def run(self, folder: Path, progress: Progress) -> Path:
        """Train, score and write the record; returns its path."""


def printed(rows: Mapping[str, Sequence[tuple[float | None, float | None]]]) -> Printed:
    """The printed numbers of rows that have a plain and an anchored run.

    Example:
        >>> printed({"topk": ((84.9, 0.983), (87.63, 0.986))})["topk", "paper+anchors"]
        (87.63, 0.986)
    """
    return {(row, arm): pair for row, pairs in rows.items() for arm, pair in zip(PRINTED_ARMS, pairs, strict=True)}


@dataclass(frozen=True)
class Entry:
    """A run, and the row and arm of the table in which it stands."""

    row: str
    arm: str
    run: Run


@dataclass(frozen=True)
class Study:
    """A table or figure of the paper, or one that goes beyond it.

    `runs(scale)` are its runs with a seed of 0; they are repeated for `seeds`, or else for the scale's own. `about()`
    is what is true before anything is run, `says` what the runs say. `tables` and `columns` (what the columns are)
    replace the usual ones. `refused` says why a scale has no runs, `packed` is the file of its committed records if not
    study-SCALE.
    """

    name: str
    title: str
    runs: Callable[[Scale], Iterable[Entry]]
    printed: Printed = field(default_factory=dict)
    about: Callable[[], str] = str
    says: "Callable[[Results], str] | None" = None
    tables: "Callable[[Results], Sequence[Table]] | None" = None
    columns: Mapping[str, str] = field(default_factory=dict)
    figure: "Callable[[Results], Figure | None] | None" = None
    refused: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] | None = None
    packed: str = ""

    def entries(self, scale: Scale, seeds: int | None = None, device: str = "cpu") -> list[Entry]:
        """Every run at a scale, seed by seed; `seeds`: that many, from the first.

        Raises: ArgumentError: the study has no runs at this scale, with the reason.
        """
        made = [] if scale.name in self.refused else list(self.runs(scale))
        if not made:
            why = self.refused.get(scale.name, "choose another scale")
            raise ArgumentError(f"{self.name} has no runs at scale {scale.name}: {why}")
        usual = self.seeds or scale.seeds
        chosen = usual if seeds is None else range(usual[0], usual[0] + seeds)
        return [replace(entry, run=_placed(entry.run, seed, device)) for seed in chosen for entry in made]

    def committed(self, scale: Scale) -> Path:
        """The packed file of its committed records at a scale."""
        return packed(self.packed or f"study-{scale.name}")


def _placed(run: Run, seed: int, device: str) -> Run:
    config = replace(run.config, seed=seed, device=device)
    return replace(run, seed=seed, config=config)  # type: ignore[type-var]
