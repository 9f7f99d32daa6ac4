"""The quality board: same rows for all, scores that cost the training nothing, and trials that are never run twice."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import quality, quality_run
from benchmarks.libraries import PEERS
from benchmarks.quality import FACTORS, SEEDS, Options, Trial, measure, rows_of
from benchmarks.quality_page import write_quality
from benchmarks.sizes import SIZES
from monosem.base import write_json
from monosem.bench import environment
from tests.benchmarks.test_command import call

OPTIONS = Options(("topk",), tokens=1024, n_q=32, k=2, batch=64)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = np.random.default_rng(0).normal(size=(1500, 8)).astype(np.float32) @ np.diag(np.arange(1.0, 9.0)) + 3
    rows[7] *= 1000
    np.save(tmp_path / "rows.npy", rows.astype(np.float32))
    return tmp_path / "rows.npy"


@pytest.fixture
def folder(data: Path) -> Path:
    for name, rows in rows_of(data, OPTIONS.tokens).items():
        np.save(data.parent / f"{name}.npy", rows.numpy())
    return data.parent


def _asked(folder: Path, **changes: Any) -> dict[str, Any]:
    shapes = {"n_q": 32, "k": 2, "batch": 64, "tokens": 1024, "rows": str(folder)}
    return vars(Trial("monosem", "topk", 1.0, 0, 2.0)) | shapes | changes


def test_rows_have_no_outliers_and_are_in_units_of_training(data: Path) -> None:
    parts = rows_of(data, 10**6)
    assert int(parts["left_out"]) == 1
    sizes = [len(parts[name]) for name in ("train", "validation", "test")]
    assert sizes == [1350, 75, 74]
    every = torch.cat([parts[name] for name in ("train", "validation", "test")])
    assert len(every.unique(dim=0)) == 1499
    assert float(every.norm(dim=1).mean()) == pytest.approx(8**0.5, rel=0.01)
    assert float(every.mean(0).norm()) < 0.1


@pytest.mark.parametrize("case", quality.METHODS)
def test_ours_is_scored_on_the_way(folder: Path, case: str) -> None:
    answer = quality_run.run(_asked(folder, case=case))
    points = answer["points"]
    assert [point["step"] for point in points] == [2, 4, 6, 8, 10, 12, 14, 16]
    assert all(a["cpu"] <= b["cpu"] for a, b in pairwise(points))
    assert points[-1]["test"]["fvu"] < points[0]["test"]["fvu"]
    assert {"fvu", "trimmed", "by_dimension", "l0", "dead"} <= set(points[-1]["validation"])
    if case == "topk":
        assert points[-1]["test"]["l0"] == 2


def test_a_library_reads_every_row_once_and_its_clock_stops_while_it_is_scored(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks = iter(range(10**6))
    monkeypatch.setattr(quality_run.time, "process_time", lambda: float(next(ticks)))
    x = torch.from_numpy(np.load(folder / "train.npy"))
    scorer = quality_run.Scorer(folder, 16)
    rows = quality_run.FileRows(SIZES["small"].__class__("s", 8, 32, 2, batch=64), x, _asked(folder), scorer)
    drawn: list[float] = []

    def reads(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        drawn.append(float(torch.rand(1)))  # as a library may in its own forward pass
        return x * 0.5, torch.ones(len(x), 4)

    rows.reads = reads
    before = torch.get_rng_state()
    seen = torch.cat(list(rows))
    assert len(seen.unique(dim=0)) == 1024
    assert torch.equal(torch.get_rng_state(), before)
    assert len(drawn) == 2 * len(scorer.points) == 14
    # a tick at the start and one at each score; those around a score are taken away again
    assert [point["cpu"] for point in scorer.points] == [1.0 + 2 * i for i in range(7)]
    assert scorer.points[0]["test"]["l0"] == 4


def test_the_best_of_the_grid_is_trained_from_three_seeds_and_nothing_runs_twice(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[Trial] = []

    def run(trial: Trial, folder: Path, options: Options) -> dict[str, Any]:
        ran.append(trial)
        if trial.who == "overcomplete":
            return {"error": "no such thing"}
        fvu = abs(trial.factor - 3.0) + (1 if trial.who == "saelens" else 0)
        score = {"fvu": fvu, "l0": 5.0 if trial.who == "saelens" else trial.l0}
        return {"points": [{"step": 1, "cpu": 2.0, "validation": score, "test": score}]}

    monkeypatch.setattr(quality, "_run", run)
    path, said = data.parent / "record.json", list[str]()
    options = Options(("topk",), {"saelens": "python", "overcomplete": "python"}, tokens=1024, n_q=32, k=2, batch=64)
    record = measure(data, options, path, said.append)
    ours = [trial for trial in ran if trial.who == "monosem"]
    assert [(trial.factor, trial.seed) for trial in ours[:6]] == [(f, 0) for f in FACTORS] + [(3.0, s) for s in SEEDS]
    assert {trial.l0 for trial in ours[6:]} == {5.0}  # the number of latents that the peer reached
    assert len([trial for trial in ran if trial.who == "overcomplete"]) == len(FACTORS)
    assert any("no such thing" in line for line in said)
    ran.clear()
    assert measure(data, options, path, said.append)["trials"] == record["trials"]
    assert ran == []
    with pytest.raises(quality.ArgumentError, match="n_q 32, not 16"):
        measure(data, Options(("topk",), tokens=1024, n_q=16, k=2, batch=64), path, said.append)


def _seeds(who: str, l0: float, fvu: float, seconds: float) -> list[dict[str, Any]]:
    score = {"trimmed": fvu, "by_dimension": fvu, "l0": l0, "dead": 0.0}
    return [
        vars(Trial(who, "topk", 1.0, seed, l0))
        | {"points": [{"cpu": seconds * i / 2, "test": score | {"fvu": fvu * 4 / i**2}} for i in (1, 2)]}
        for seed in SEEDS
    ]


def test_the_page_says_how_soon_ours_is_as_good(tmp_path: Path) -> None:
    trials = [*_seeds("monosem", 8, 0.1, 4.0), *_seeds("saelens", 8, 0.25, 20.0), *_seeds("sparsify", 8, 0.05, 9.0)]
    trials.append(vars(Trial("overcomplete", "topk", 1.0, 0, 8.0)) | {"error": "no such thing"})
    trials.append(_seeds("saelens", 8, 0.2, 20.0)[0] | {"factor": 9.0, "seed": 0})
    shape = {"n_q": 32, "k": 8, "batch": 64, "tokens": 1024, "n_p": 8, "train_rows": 1024}
    record = {**shape, "trials": {str(i): t for i, t in enumerate(trials)}, "env": environment()}
    write_json(tmp_path / "quality-net.json", record)
    (tmp_path / "docs" / "figures").mkdir(parents=True)
    write_quality(tmp_path, tmp_path)
    page = (tmp_path / "docs" / "quality.md").read_text()
    same = " | ".join(["0.2500 ± 0.0000"] * 3)
    assert f"| TopK | sae-lens | 1 | {same} | 8.0 | 0.00 | 20.0 | 3.0 s, 6.7 x |" in page
    assert "| 9.0 | never |" in page
    assert "- TopK, overcomplete: no such thing" in page
    assert "Rates beyond the grid, one seed each, FVU: TopK, sae-lens, x 9: 0.2000." in page
    assert "net, TopK" in (tmp_path / "docs" / "figures" / "quality.svg").read_text()


def test_every_library_says_how_it_is_read() -> None:
    for peer in PEERS.values():
        assert callable(getattr(peer, "_read", None)), peer


@pytest.mark.slow
def test_a_training_in_a_process_of_its_own_and_one_that_fails(folder: Path) -> None:
    trial = Trial("monosem", "topk", 1.0, 0, 2.0)
    assert quality._run(trial, folder, OPTIONS)["points"][-1]["step"] == 16
    assert "absent" in quality._run(Trial("monosem", "absent", 1.0, 0, 2.0), folder, OPTIONS)["error"]


def test_wrong_input_takes_one_line(tmp_path: Path) -> None:
    answer = call("quality", tmp_path / "absent.npy", "--cases", "absent")
    assert answer.exit_code == 2
    assert "absent is not known; choose from topk, batch_topk, jumprelu" in answer.stderr
