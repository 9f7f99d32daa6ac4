"""`monosem bench`: records, table and report; interrupted and called again; one failing run among others."""

import json
import os
import signal
import time
from pathlib import Path

import pytest

from monosem.bench.records import read_records
from tests.cli.calls import call, spawn

NANO = ("bench", "--task", "lrb/nano", "--methods", "topk(k=2),relu_l1(l1=0.3)", "--seeds", 2, "--workers", 2)


def test_a_bench_leaves_records_a_table_and_a_page(tmp_path: Path) -> None:
    process = spawn(*NANO, "--steps", 20, "--out", tmp_path)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    records = read_records(tmp_path)
    found = sorted((r["method"]["name"], bool(r["anchors"]), r["seed"]["world"]) for r in records)
    assert found == [(m, a, s) for m in ("relu_l1", "topk") for a in (False, True) for s in (0, 1)]
    assert all(record["config"]["steps"] == 20 for record in records)
    assert all(record["anchors"] is None or record["anchors"]["k"] == 4 for record in records)
    assert err.count("M_GT") == 8
    assert "8/8" in err
    assert str(tmp_path / "report.html") in err
    assert (tmp_path / "report.html").stat().st_size > 10_000
    for word in ("lrb/nano", "topk", "relu_l1", "plain", "anchored", "gain", "±", "E raw", "oracle", "chance"):
        assert word in out
    mean = sum(r["metrics"]["l0"]["value"] for r in records if r["method"]["name"] == "topk" and not r["anchors"]) / 2
    row = next(line for line in out.splitlines() if line.split()[:2] == ["topk", "plain"])
    assert f"{mean:.1f}" in row.split()

    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.record.json")}
    again = call(*NANO, "--steps", 20, "--out", tmp_path, "--no-report")
    assert again.exit_code == 0, again.output
    assert "8 of 8 runs were there already" in again.stderr
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("*.record.json")} == before


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_bench_goes_on(how: signal.Signals, tmp_path: Path) -> None:
    options = (*NANO, "--steps", 200, "--out", tmp_path, "--no-report", "--workers", 1)
    process = spawn(*options)
    deadline = time.monotonic() + 100
    while not list(tmp_path.glob("*.record.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, how)
    _, err = process.communicate(timeout=60)
    left = read_records(tmp_path)  # whole, whatever the moment
    assert 1 <= len(left) < 8, err
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert "call the same command again to go on" in err
        assert "Traceback" not in err
        return
    again = spawn(*options)
    _, err = again.communicate(timeout=120)
    assert again.returncode == 0, err
    assert f"{len(left)} of 8 runs were there already" in err
    assert len(read_records(tmp_path)) == 8


def test_a_failing_run_is_reported_the_others_finish_and_keep_their_models(tmp_path: Path) -> None:
    process = spawn(
        *("bench", "--task", "lrb/nano", "--methods", "topk(k=2),topk(k=49)", "--seeds", 1, "--steps", 5),
        *("--plain", "--out", tmp_path, "--no-report", "--checkpoint-every", 3, "--workers", 1),
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "failed: topk(k=49, aux=0.03125)  plain  seed 0: k=49 is larger than n_q=48" in err
    assert "1 of 2 runs failed" in err
    assert "Traceback" not in err
    (record,) = read_records(tmp_path)
    assert record["method"]["spec"] == "topk(k=2, aux=0.03125)"
    assert "topk" in out
    (folder,) = (path.parent for path in (tmp_path / "runs").glob("*/config.json"))
    shown = json.loads(call("evaluate", folder, "--task", "lrb/nano", "--json").stdout)
    name = "decoder_cosine.M_IP"
    assert shown["metrics"][name]["value"] == pytest.approx(record["metrics"][name]["value"])


def test_arms_and_anchors() -> None:
    from monosem.anchors.term import PRINTED
    from monosem.bench.run import plan

    both = plan("lrb/nano", ["topk(k=2)"], seeds=1)
    assert [(job.anchors, job.held_out) for job in both] == [(0, 4), (4, 4)]
    assert [job.anchors for job in plan("lrb/nano", ["topk(k=2)"], seeds=2, anchored=False)] == [0, 0]
    anchored = plan("lrb/nano", ["topk(k=2)", "topk(k=2)"], seeds=1, plain=False, anchors=7, steps=9)
    assert [(job.anchors, job.held_out, job.config.steps) for job in anchored] == [(7, 7, 9)]
    assert plan("lrb/nano", ["topk"], seeds=1, anchoring=PRINTED)[1].anchoring == PRINTED
    family = plan("lrb/hierarchy", ["topk(k=2)"], seeds=1, among=("parents", "children"))
    assert [(job.anchors, job.held_out, job.arm) for job in family] == [
        (0, 25, "plain"), (25, 25, "parents anchored"), (25, 25, "children anchored")
    ]  # fmt: skip
    names = [job.method.partition("(")[0] for job in plan("lrb/mini", seeds=1, anchored=False)]
    assert names == [
        "relu_l1",
        "jumprelu",
        "topk",
        "batch_topk",
        "matryoshka",
        "topk_transcoder",
        "topk_crosscoder",
    ]


def test_tasks_of_an_array_make_all_runs(tmp_path: Path) -> None:
    """Each takes every second run; a third finds nothing to do, a wrong number is named."""
    for index in ("0/2", "1/2"):
        done = call(*NANO, "--steps", 5, "--out", tmp_path, "--workers", 1, "--index", index)
        assert done.exit_code == 0, done.output
        assert "4 runs on lrb/nano" in done.stderr
    assert len(read_records(tmp_path)) == 8
    assert not (tmp_path / "report.html").exists()
    done = call(*NANO, "--steps", 5, "--out", tmp_path, "--index", "8/9")
    assert done.exit_code == 0
    assert "no run is left for --index 8/9" in done.stdout
    wrong = call(*NANO, "--out", tmp_path, "--index", "2/2")
    assert wrong.exit_code == 2
    assert "--index '2/2'; write I/N with I from 0 to N - 1" in wrong.stderr
