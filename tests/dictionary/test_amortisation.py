"""The amortisation gap: 0 for an encoder that solves, known for one that is spoiled on purpose, F1 against sklearn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import f1_score, precision_score, recall_score

from monosem.base.errors import DataError, ShapeError
from monosem.dictionary.amortisation import amortisation, model_amortisation, support_scores
from monosem.dictionary.atoms import gram_omp
from monosem.methods import method


def planted(rows: int, n: int, d: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    W = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((d, n))), dim=0).float()
    z = (0.5 + rng.exponential(size=(rows, n))) * (rng.random((rows, n)) < 0.06)
    return torch.from_numpy(z).float() @ W.T, W, torch.from_numpy(z > 0)


X, W, PRESENT = planted(200, 40, 24, seed=0)


def test_a_solver_as_the_encoder_has_no_gap_on_the_true_dictionary() -> None:
    found = amortisation(X, gram_omp(X, W, 8), W, W, PRESENT)
    assert found["encoder"]["matched"]["f1"] > 0.97
    assert abs(found["amortisation_gap"]["matched"]) < 0.02
    assert found["dictionary_gap"] == {"matched": 0.0, "best": 0.0}
    assert found["encoder"]["fvu"] < 0.01
    for name in ("omp", "lasso"):
        assert abs(found["ceiling"][name]["l0"] / found["true_l0"] - 1) < 0.1


def test_a_spoiled_encoder_shows_and_the_solver_mends_it() -> None:
    z = gram_omp(X, W, 8)
    spoiled = z[:, torch.randperm(40, generator=torch.Generator().manual_seed(0))]
    found = amortisation(X, spoiled, W, W, PRESENT)
    assert found["encoder"]["matched"]["f1"] < 0.2
    assert min(found["amortisation_gap"].values()) > 0.7
    assert found["dictionary_gap"]["matched"] == 0.0


def test_a_dictionary_without_half_of_the_features_shows() -> None:
    D = W.clone()
    D[:, :20] = torch.nn.functional.normalize(torch.randn(24, 20, generator=torch.Generator().manual_seed(1)), dim=0)
    found = amortisation(X, gram_omp(X, D, 4), D, W, PRESENT)
    assert found["dictionary_gap"]["matched"] > 0.3
    assert found["encoder"]["matched"]["recall"] < 0.6


def test_scores_are_those_of_scikit_learn() -> None:
    """Latents in another order, two more that match nothing, one feature without a latent."""
    rng = np.random.default_rng(2)
    order = rng.permutation(40)
    own = torch.nn.functional.normalize(torch.from_numpy(rng.standard_normal((24, 42))).float(), dim=0)
    D = torch.cat([W[:, order], own[:, :2]], 1)
    D[:, list(order).index(7)] = own[:, 2]
    active = torch.from_numpy(rng.random((200, 42)) < 0.1)
    said = np.zeros((200, 43), dtype=bool)  # feature by feature, then three latents that stand for nothing
    said[:, order] = active[:, :40].numpy()
    said[:, 40:42], said[:, 42], said[:, 7] = active[:, 40:].numpy(), said[:, 7], False
    real = np.concatenate([PRESENT.numpy(), np.zeros((200, 3), dtype=bool)], 1)
    scores = support_scores(active, D, W, PRESENT)["matched"]
    for name, reference in (("f1", f1_score), ("precision", precision_score), ("recall", recall_score)):
        assert scores[name] == pytest.approx(reference(real.ravel(), said.ravel()), abs=1e-12)
    nearest = (W.T @ D).abs().argmax(1).numpy()
    assert support_scores(active, D, W, PRESENT)["best"]["f1"] == pytest.approx(
        f1_score(PRESENT.numpy().ravel(), active.numpy()[:, nearest].ravel()), abs=1e-12
    )


def test_a_copy_of_a_latent_is_charged_once_it_fires() -> None:
    D, active = torch.cat([W, W[:, :1]], 1), torch.cat([PRESENT, PRESENT[:, :1]], 1)
    scores = support_scores(active, D, W, PRESENT)
    extra, there = int(PRESENT[:, 0].sum()), int(PRESENT.sum())
    assert scores["matched"]["precision"] == pytest.approx(there / (there + extra))
    assert scores["best"]["f1"] == 1.0


@pytest.mark.parametrize("spec", ["topk(k=4)", "relu_l1(l1=0.1)"])
def test_a_model_is_coded_without_its_bias(spec: str) -> None:
    model, _ = method(spec).build(48, (24,), (24,), (X, X))
    with torch.no_grad():
        model.b_D += 1.0
        out = model(X)
        z = out.code.to_dense()
    found = model_amortisation(model, X, X, W, PRESENT)
    plain = amortisation(X - model.b_D.detach(), z, model.W_D, W, PRESENT)
    assert found["encoder"]["fvu"] == pytest.approx(plain["encoder"]["fvu"], rel=1e-3)
    assert found["encoder"]["l0"] == float((z > 0).sum(1).double().mean())
    assert set(found) == set(plain)


def test_bad_input_is_named() -> None:
    z = gram_omp(X, W, 4)
    with pytest.raises(ShapeError, match="rows = 200 in x but 9 in z"):
        amortisation(X, z[:9], W, W, PRESENT)
    with pytest.raises(ShapeError, match="n_q = 39 in z but 40 in W_D"):
        amortisation(X, z[:, 1:], W, W, PRESENT)
    with pytest.raises(ShapeError, match="n = 39 in present but 40 in W_r"):
        amortisation(X, z, W, W, PRESENT[:, 1:])
    with pytest.raises(DataError, match="no feature is present"):
        amortisation(X, z, W, W, torch.zeros_like(PRESENT))
    with pytest.raises(DataError, match="no latent fires"):
        amortisation(X, 0 * z, W, W, PRESENT)
    with pytest.raises(DataError, match="must not be negative"):
        amortisation(X, z - 1.0, W, W, PRESENT)
