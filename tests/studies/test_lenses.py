"""Lenses on metrics: what damage does to true columns, and what tells arms apart."""

import numpy as np
import pytest
import torch

from monosem import task
from monosem.bench import TaskSource
from studies.lenses import DAMAGE, METRICS, _damaged, _scores, anchors_by_loss, follows, longer, noise, told_apart

SOURCE = TaskSource(task("lrb/nano", seed=1))
WIDTH = len(METRICS)


@pytest.mark.parametrize("name", DAMAGE)
def test_no_damage_leaves_the_truth_and_damage_is_seen(name: str) -> None:
    unit = torch.nn.functional.normalize(SOURCE.W_r, dim=0)
    torch.testing.assert_close(_damaged(name, SOURCE, 0, 0.0), unit)
    whole, broken = (_scores(_damaged(name, SOURCE, 0, level), SOURCE) for level in (0.0, 1.0))
    assert whole["decoder_cosine.M_GT@0.99"] == 1.0
    assert whole["codes.f1"] > 0.99
    assert any(METRICS[metric] * (broken[metric] - whole[metric]) < -0.1 for metric in METRICS)


def test_only_raw_products_of_the_encoder_change_with_lengths() -> None:
    D = _damaged("turned", SOURCE, 0, 0.5)
    one, ten = (_scores(D, SOURCE, scale) for scale in (1.0, 10.0))
    moved = {metric for metric in METRICS if abs(one[metric] - ten[metric]) > 1e-3}
    assert moved == {"encoder_raw.M_GT@0.95", "encoder_raw.M_IP"}


def test_arms_that_differ_by_more_than_their_noise_are_told_apart() -> None:
    def arm(mean: float) -> dict[int, np.ndarray]:
        return {seed: np.full(WIDTH, mean + 0.01 * seed + 0.001 * (seed == 1)) for seed in range(3)}

    jagged = {seed: np.full(WIDTH, value) for seed, value in enumerate((0.9, 0.1, 0.5))}
    cells = {"task": {"a": arm(0.2), "b": arm(0.7), "c": jagged}}
    pairs, own, head = told_apart(cells)
    assert pairs[0] == 3
    assert own[0] == head[0] == pytest.approx(1 / 3)  # a and b; neither of them and c
    assert noise({"task": {"c": jagged}})[0] == pytest.approx(0.8)


def test_longer_runs_and_ranks_are_read_with_the_sign_of_the_metric() -> None:
    lengths = {"one": {"100": {0: np.full(WIDTH, 0.2)}, "200": {0: np.full(WIDTH, 0.4)}, "150": {0: np.zeros(WIDTH)}}}
    count, better = longer(lengths)
    place = {metric: i for i, metric in enumerate(METRICS)}
    assert count == 1
    assert (better[place["codes.f1"]], better[place["fvu"]]) == (1.0, 0.0)
    arms = {str(i): {0: np.full(WIDTH, i / 10)} for i in range(8)}
    followed = follows({"task": arms})
    assert followed[place["codes.f1"]] == pytest.approx(1.0)
    assert followed[place["fvu"]] == pytest.approx(-1.0)


def test_loss_and_features_are_counted_pair_by_pair() -> None:
    def run(anchors: str | None, held: float, fvu: float, seed: int = 0) -> dict[str, object]:
        metrics = {"decoder_cosine.M_GT@0.95": {"value": held}, "fvu": {"value": fvu}}
        one = {"name": "lrb/nano", "version": 1, "pairing": "sae"}
        head = {"task": one, "method": {"spec": "topk(k=2)"}, "config": {"steps": 5}}
        return head | {"anchors": anchors, "seed": {"world": seed, "train": seed}, "metrics": metrics}

    runs = [run(None, 0.5, 0.2), run("a", 0.6, 0.1), run("b", 0.4, 0.1), run("c", 0.6, 0.3), run("d", 0.5, 0.1)]
    assert anchors_by_loss([*runs, run("a", 0.9, 0.1, seed=1)]) == {"lrb/nano": [1, 1, 1]}
