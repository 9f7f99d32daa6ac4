"""The small world of a report is what its study trains."""

import json

from studies.world3d import OUT, WORLD, small_world


def test_the_stored_world_has_the_numbers_of_the_study() -> None:
    """A few steps give the same truth; what is learned is the record's, with bits of its own machine."""
    stored, short = json.loads(OUT.read_text()), small_world(steps=2)
    assert set(stored["arms"]) == {"plain", "anchored"}
    for part in ("features", "anchored", "points", "caption"):
        assert stored[part] == short[part]
    for arm in stored["arms"].values():
        assert len(arm["columns"]) == len(arm["cosine"]) == WORLD.n_q - arm["dead"]
        assert 0 < arm["recovered"] <= WORLD.world.n
