"""A full product of cases is for `-m slow`; the ordinary suite takes a part where each pair of values still meets."""

from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import pytest


def in_turn(cases: Iterable[Sequence[Hashable]], keep: int = 1) -> list[Any]:
    """Of the cases that agree in all but their last value, `keep` stay, those of the next group beginning one later.

    The last value's turn moves on from group to group, so that over the groups each of its values meets each of the
    others'. What does not stay is marked slow.
    """
    groups: dict[tuple[Hashable, ...], list[Sequence[Hashable]]] = {}
    for case in cases:
        groups.setdefault(tuple(case[:-1]), []).append(case)
    out: list[Any] = []
    for turn, group in enumerate(groups.values()):
        for place, case in enumerate(group):
            stays = (place - turn) % len(group) < keep
            out.append(pytest.param(*case, marks=() if stays else pytest.mark.slow))
    return out
