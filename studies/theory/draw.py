"""FIGURES: every check's figure by the check's name; STUDIES: slower ones; and how to draw them into a folder."""

from collections.abc import Callable, Sequence
from pathlib import Path

from monosem.base.registry import Registry
from studies.theory import claims, landscape, minima
from studies.theory.style import Figure

FIGURES: Registry[Callable[[], Figure]] = Registry("figure")
for _module in (claims, minima):
    for _name in _module.__all__:
        if _name.startswith("draw_"):
            FIGURES.add(_name.removeprefix("draw_"), getattr(_module, _name))

STUDIES: Registry[Callable[[], Figure]] = Registry("study")
STUDIES.add("atlas", landscape.draw_atlas)
STUDIES.add("basins", landscape.draw_basins)


def draw_all(folder: str | Path, names: Sequence[str] | None = None, suffix: str = "svg") -> list[Path]:
    """Draw figures into a folder; the same numbers give the same bytes."""
    import matplotlib

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with matplotlib.rc_context({"svg.hashsalt": "monosem", "svg.fonttype": "none", "font.size": 9}):
        for name in names or list(FIGURES):
            path = folder / f"{name}.{suffix}"
            draw = STUDIES[name] if name in STUDIES else FIGURES[name]
            draw().savefig(path, dpi=110, metadata={"Date": None} if suffix == "svg" else None)
            paths.append(path)
    return paths
