"""True directions: the cap is kept, and a cap that cannot be kept is refused with the numbers."""

import math

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError, GeneratorError
from monosem.bench import world as generator
from monosem.bench.world import feature_directions, rankin_bound, signed_interference, welch_bound


@pytest.mark.parametrize(
    ("n", "width", "cap"), [(125, 96, 0.1), (300, 96, 0.15), (24, 16, 0.2), (5, 8, 0.0), (3, 2, -0.49)]
)
@pytest.mark.parametrize("seed", [0, 1])
def test_reaches_the_cap_with_unit_columns(n: int, width: int, cap: float, seed: int) -> None:
    found = feature_directions(n, width, cap, seed=seed)
    W = found.W.double().numpy()
    gram = W.T @ W
    off = gram[~np.eye(n, dtype=bool)]
    assert found.W.shape == (width, n)
    assert found.W.dtype == torch.float32
    assert off.max() <= cap
    assert found.interference == pytest.approx(off.max(), abs=1e-12)
    np.testing.assert_allclose(np.diag(gram), 1.0, atol=1e-6)


def test_the_cap_is_signed() -> None:
    """Strongly negative pairs are allowed: only positive interference is pushed away."""
    W = feature_directions(300, 24, 0.3).W
    assert float((W.T @ W).min()) < -0.4


def test_gaussian_start_did_not_keep_the_cap() -> None:
    start = torch.randn(96, 125, generator=torch.Generator().manual_seed(0))
    assert signed_interference(start / start.norm(dim=0)) > 0.2
    assert feature_directions(125, 96, 0.1).steps > 0
    assert feature_directions(125, 96, 0.9).steps == 0


def test_an_impossible_cap_raises_with_every_number() -> None:
    """6 unit vectors in 2 dimensions: some pair is within 60 degrees, cosine 1/2."""
    with pytest.raises(GeneratorError) as caught:
        feature_directions(6, 2, 0.4, max_steps=200)
    text = str(caught.value)
    for part in (
        "n = 6",
        "2 dimensions",
        "M = 0.4000",
        f"{welch_bound(6, 2):.4f}",
        f"{rankin_bound(6, 2):.4f}",
        "fewer",
    ):
        assert part in text
    assert 0.5 - 1e-6 <= float(text.split("reached a signed interference of ")[1].split(",")[0]) < 0.6


def test_bounds_against_optimal_packings() -> None:
    """The simplex meets Rankin's first bound, the orthoplex his second, an equiangular frame Welch's."""
    simplex = np.eye(4) - 0.25
    gram = simplex @ simplex / 0.75
    assert rankin_bound(4, 3) == pytest.approx(gram[0, 1])
    assert rankin_bound(6, 3) == 0.0
    mercedes = np.array([[math.cos(a), math.sin(a)] for a in (0, 2 * math.pi / 3, 4 * math.pi / 3)])
    assert welch_bound(3, 2) == pytest.approx(abs(mercedes @ mercedes.T)[0, 1])
    assert welch_bound(3, 3) == 0.0


def test_streams_and_seeds_differ_and_repeat() -> None:
    one = feature_directions(24, 16, 0.2, seed=1, stream="directions/0").W
    assert torch.equal(one, feature_directions(24, 16, 0.2, seed=1, stream="directions/0").W)
    assert not torch.equal(one, feature_directions(24, 16, 0.2, seed=1, stream="directions/1").W)
    assert not torch.equal(one, feature_directions(24, 16, 0.2, seed=2, stream="directions/0").W)


def test_bits_do_not_depend_on_the_callers_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    one, used, gram = feature_directions(300, 96, 0.15).W, [], generator._gram
    monkeypatch.setattr(generator, "_gram", lambda W: (used.append(torch.get_num_threads()), gram(W))[1])
    torch.set_num_threads(2)
    try:
        two = feature_directions(300, 96, 0.15).W
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)
    assert set(used) == {1}


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ArgumentError, match=r"max_interference = 1\.5"):
        feature_directions(4, 4, 1.5)
    with pytest.raises(ArgumentError, match="n = 0"):
        feature_directions(0, 4, 0.5)
