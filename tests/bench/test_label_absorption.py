"""Absorption on labelled rows: a latent that absorbs, one that does not, and errors that name the label."""

import pytest
import torch

from monosem.base.errors import DataError, ShapeError
from monosem.bench.absorption import Family, Fired, best_latent, label_absorption

FAMILY = Family("grain", ("wheat", "corn"))


def _scene(absorbs: bool) -> Fired:
    """Eight rows: wheat 0 1, corn 2 3, grain alone 4 5, neither 6 7; latents: grain's, wheat's, corn's, noise."""
    rows = torch.arange(8)
    labels = {"grain": rows < 6, "wheat": rows < 2, "corn": (rows >= 2) & (rows < 4)}
    grain = labels["grain"] & ~(labels["wheat"] if absorbs else torch.zeros(8, dtype=torch.bool))
    return Fired(torch.stack([grain, labels["wheat"], labels["corn"], rows >= 6], 1).float(), labels)


def test_an_absorbed_child_silences_its_parent() -> None:
    fired = _scene(absorbs=True)
    found = label_absorption(fired, fired, FAMILY)
    assert found["wheat"] == {"rows": 2, "silent": 1, "silent_at_size": 1, "absorbed": 1, "merged": 0, "f1": 1}
    assert found["corn"] == {"rows": 2, "silent": 0, "silent_at_size": 0, "absorbed": 0, "merged": 0, "f1": 1}
    assert found["grain"]["recall"] == pytest.approx(4 / 6)
    assert found["grain"]["f1"] == pytest.approx(0.8)
    assert (found["grain"]["precision"], found["grain"]["rate"], found["grain"]["silent_alone"]) == (1, 0.5, 0)


def test_without_absorption_nothing_is_silent() -> None:
    fired = _scene(absorbs=False)
    found = label_absorption(fired, fired, FAMILY)
    assert [found[name]["silent"] for name in ("wheat", "corn")] == [0, 0]
    assert found["grain"]["recall"] == 1


def test_a_latent_gains_nothing_by_firing_everywhere() -> None:
    fired = _scene(absorbs=True)
    everywhere = fired.latents.clone()
    everywhere[:, 0] = torch.tensor([0.1, 0.2, 2.0, 2.0, 3.0, 3.0, 1.0, 1.0])
    found = label_absorption(fired, Fired(everywhere, fired.labels), FAMILY, parent_latent=0)
    assert (found["wheat"]["silent"], found["wheat"]["silent_at_size"]) == (0, 1)  # the six strongest leave wheat out
    assert (found["grain"]["recall"], found["grain"]["recall_at_size"]) == (1, pytest.approx(4 / 6))


def test_latents_are_chosen_on_other_rows_than_they_are_read_on() -> None:
    choose, test = _scene(absorbs=False), _scene(absorbs=True)
    swapped = Fired(choose.latents[:, [3, 1, 2, 0]], choose.labels)  # the parent's latent is number 3 there
    assert best_latent(swapped, "grain") == (3, 1)
    found = label_absorption(swapped, test, FAMILY)
    assert found["grain"]["precision"] == 0
    assert found["wheat"]["silent"] == 1


def test_an_anchored_parent_is_named_and_may_be_the_childs_latent() -> None:
    fired = _scene(absorbs=True)
    found = label_absorption(fired, fired, FAMILY, parent_latent=1)
    assert (found["wheat"]["merged"], found["wheat"]["silent"], found["wheat"]["absorbed"]) == (1, 0, 0)
    assert found["corn"]["absorbed"] == 1


def test_a_parent_that_is_never_alone_has_no_such_share() -> None:
    fired = _scene(absorbs=True)
    rows = fired.labels["wheat"] | fired.labels["corn"]
    inside = Fired(fired.latents[rows], {name: label[rows] for name, label in fired.labels.items()})
    assert "silent_alone" not in label_absorption(inside, inside, FAMILY)["grain"]


def test_labels_that_nothing_carries_are_named(as_in_production: None) -> None:
    fired = _scene(absorbs=True)
    with pytest.raises(DataError, match="no row carries 'rye'"):
        label_absorption(fired, fired, Family("grain", ("rye",)))
    with pytest.raises(DataError, match="has no children"):
        label_absorption(fired, fired, Family("grain", ()))
    apart = Fired(fired.latents, dict(fired.labels) | {"noise": torch.arange(8) >= 6})
    with pytest.raises(DataError, match="both grain and noise"):
        label_absorption(apart, apart, Family("grain", ("noise",)))
    with pytest.raises(ShapeError, match="8 rows, but 3 of label grain"):
        Fired(fired.latents, {"grain": torch.ones(3, dtype=torch.bool)})
