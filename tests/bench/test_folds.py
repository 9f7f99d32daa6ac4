"""Streamed code metrics equal a direct computation, for any split and any grouping of the merges."""

from functools import reduce
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import r2_score

from monosem.base.errors import DataError
from monosem.base.sparse import DenseCode, Positions, SparseCode
from monosem.bench.folds import CODE_METRICS, Coded, evaluate

ROWS, N_R, N_Q = 40, 5, 9


def batch(seed: int = 0, *, sparse: bool = False, offset: float = 3.0) -> Coded:
    rng = np.random.default_rng(seed)
    y = torch.from_numpy(rng.standard_normal((ROWS, N_R)) + offset)
    z = torch.from_numpy(rng.standard_normal((ROWS, N_Q)) * (rng.random((ROWS, N_Q)) < 0.2))
    z[:, [2, 7]] = 0.0
    code = SparseCode(Positions.from_mask(z != 0), z[z != 0]) if sparse else DenseCode(z)
    return Coded(y, y + 0.3 * torch.from_numpy(rng.standard_normal((ROWS, N_R))), code, torch.arange(ROWS) % 4)


def part(whole: Coded, rows: slice) -> Coded:
    assert whole.true_l0 is not None
    code = DenseCode(whole.code.to_dense()[rows])
    return Coded(whole.target[rows], whole.reconstruction[rows], code, whole.true_l0[rows])


def direct(whole: Coded) -> dict[str, float]:
    y, e, z = whole.target, whole.target - whole.reconstruction, whole.code.to_dense()
    assert whole.true_l0 is not None
    return {
        "fvu": float((e**2).sum() / ((y - y.mean(0)) ** 2).sum()),
        "l0": float((z != 0).sum(1).double().mean()),
        "dead": float((z == 0).all(0).double().mean()),
        "true_l0": float(whole.true_l0.double().mean()),
    }


@pytest.mark.parametrize("sparse", [False, True])
def test_one_batch_equals_the_formula(sparse: bool) -> None:
    whole = batch(sparse=sparse)
    assert evaluate([whole]) == pytest.approx(direct(whole), rel=1e-12)
    assert direct(whole)["dead"] == pytest.approx(2 / 9)


@given(st.lists(st.integers(0, ROWS), max_size=6), st.integers(0, 5), st.sampled_from([0.0, 3.0, 1e4]))
def test_any_split_equals_the_whole(cuts: list[int], seed: int, offset: float) -> None:
    whole = batch(seed, offset=offset)
    edges = [0, *sorted(cuts), ROWS]
    parts = [part(whole, slice(a, b)) for a, b in pairwise(edges)]
    assert evaluate(parts) == pytest.approx(direct(whole), rel=1e-9)


@pytest.mark.parametrize("name", CODE_METRICS)
def test_merging_is_associative_with_a_neutral_element(name: str) -> None:
    fold = CODE_METRICS[name]
    whole = batch()
    states = [fold.of(part(whole, slice(i, i + 10))) for i in range(0, ROWS, 10)]
    left = reduce(fold.merge, states)
    right = reduce(lambda a, b: fold.merge(b, a), reversed(states))
    padded = fold.merge(fold.merge(fold.init(), left), fold.init())
    expected = direct(whole)[name]
    assert [fold.compute(s) for s in (left, right, padded)] == pytest.approx([expected] * 3, rel=1e-12)


def test_fvu_is_one_minus_the_pooled_r2() -> None:
    whole = batch(1)
    y, y_hat = whole.target.numpy(), whole.reconstruction.numpy()
    pooled = r2_score(y, y_hat, multioutput="variance_weighted")
    assert evaluate([whole])["fvu"] == pytest.approx(1 - pooled, rel=1e-12)


def test_fvu_is_a_ratio_of_sums_not_a_mean_of_ratios() -> None:
    whole = batch(2)
    halves = [part(whole, slice(0, 5)), part(whole, slice(5, ROWS))]
    mean_of_ratios = np.mean([direct(half)["fvu"] for half in halves])
    assert abs(evaluate(halves)["fvu"] - mean_of_ratios) > 1e-3


def test_explicit_zeros_do_not_count() -> None:
    at = Positions.from_rows(torch.tensor([[0, 1], [0, 2]]), 3)
    code = SparseCode(at, torch.tensor([1.0, 0.0, -2.0, 0.0]))
    y = torch.tensor([[0.0], [1.0]])
    got = evaluate([Coded(y, y, code)])
    assert got == {"fvu": 0.0, "l0": 1.0, "dead": pytest.approx(2 / 3)}


@pytest.mark.parametrize("name", CODE_METRICS)
def test_no_rows_is_an_error(name: str) -> None:
    fold = CODE_METRICS[name]
    with pytest.raises(DataError, match="no rows"):
        fold.compute(fold.init())


def test_equal_targets_and_no_batches_are_errors() -> None:
    y = torch.ones(3, 2)
    with pytest.raises(DataError, match="all equal"):
        evaluate([Coded(y, y, DenseCode(torch.ones(3, 4)))])
    with pytest.raises(DataError, match="no batches"):
        evaluate([])
