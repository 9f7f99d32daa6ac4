"""A day on a GPU, without one: every part runs at tiny sizes, on the CPU and through Triton's interpreter."""

import os
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

from benchmarks import gpu_day, gpu_parts
from benchmarks.gpu_parts import SETTINGS, parts, waits
from benchmarks.gpu_pieces import DenseStep, Shape, floor_bytes
from monosem.base.files import read_json
from monosem.kernels import ops, sparse
from tests.kernels.gpu.where import DEVICE, needs_triton

UNITS = {f"{part}: {name}" for part, units in parts(SETTINGS["cpu"]).items() for name in units}


@pytest.fixture(autouse=True)
def _as_in_a_shell(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Workers import this checkout, check no types, and warnings are not errors there."""
    root = Path(gpu_day.__file__).parents[1]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(root / "src"), str(root)]))
    precision = torch.get_float32_matmul_precision()
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    torch.set_float32_matmul_precision(precision)


def _run(*arguments: object) -> int:
    return gpu_day.main([str(argument) for argument in arguments])


def test_units_run_are_recorded_at_once_and_not_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "gpu.json"
    calls: list[str] = []

    def fake(setting: Any) -> dict[str, dict[str, Any]]:
        def unit(name: str, **result: Any) -> Any:
            def work() -> dict[str, Any]:
                calls.append(name)
                if "error" in result:
                    raise ValueError(result["error"])
                if name == "c":
                    assert set(read_json(out)["parts"]["one"]) == {"a", "b"}
                return result

            return work

        return {"one": {"a": unit("a", ok=True), "b": unit("b", error="no room\nat all"), "c": unit("c", ms=2.0)}}

    monkeypatch.setattr(gpu_day, "parts", fake)
    assert _run("--out", out, "--cpu") == 1
    assert "failed: one: b" in capsys.readouterr().out
    assert read_json(out)["parts"]["one"]["b"]["error"] == "ValueError: no room"
    assert _run("--out", out, "--cpu", "--only", "one: a") == 1
    assert calls == ["a", "b", "c"]
    assert _run("--out", out, "--cpu") == 1
    assert calls == ["a", "b", "c", "b"]
    assert _run("--out", out, "--cpu", "--fresh", "--minutes", "-1") == 3
    assert "go on" in capsys.readouterr().out
    with patch.object(gpu_day, "_device", lambda setting: {"name": "another"}):
        assert _run("--out", out, "--cpu") == 2
    assert "add --fresh" in capsys.readouterr().err


@pytest.mark.parametrize(
    "only", ["fit: topk_auxk", "redone", "steps", "syncs", "sanitizer", "harvest", "pieces", "tests"]
)
def test_parts_run_on_the_cpu(only: str, tmp_path: Path) -> None:
    """Plain torch on both sides, so that the same run has the same bits; what needs a device is skipped by name."""
    out = tmp_path / "gpu.json"
    assert _run("--out", out, "--cpu", "--only", only) == 0
    results = {f"{part}: {name}": r for part, units in read_json(out)["parts"].items() for name, r in units.items()}
    assert set(results) == {name for name in UNITS if only in name}
    for name, result in results.items():
        if name.startswith("fit"):
            assert result["first"] == result["last"] == result["weights"] == 0
        if name.startswith("steps"):
            assert result["ms"] > 0
        if name.startswith(("redone", "sanitizer", "pieces", "tests")):
            assert result["skipped"]


def test_a_killed_run_resumes_with_the_same_bits() -> None:
    result = gpu_parts.resumes(SETTINGS["cpu"])["topk"]()
    assert result == {"ok": True, "weights": 0.0}
    with patch.object(sys, "executable", "false"):
        assert gpu_parts.resumes(SETTINGS["cpu"])["topk"]()["ok"] is False


@needs_triton
@pytest.mark.skipif(DEVICE == "cuda", reason="the interpreter stands for a device that is there")
@pytest.mark.parametrize("case", ["topk_bf16", "batch_topk"])
def test_fit_goes_through_the_programs_and_ends_where_the_cpu_ends(case: str) -> None:
    before = sparse.serves, ops.serves
    with patch("monosem.kernels.gpu.rows.launch", wraps=gpu_rows_launch()) as launches:
        result = gpu_parts.fits(SETTINGS["interpret"])[case]()
    assert result["ok"]
    assert result["weights"] < 1e-5
    assert launches.call_count >= 2 * SETTINGS["interpret"].steps
    assert (sparse.serves, ops.serves) == before


def gpu_rows_launch() -> Any:
    """The launcher itself."""
    from monosem.kernels.gpu.launch import launch

    return launch


@needs_triton
@pytest.mark.slow
def test_every_part_runs_through_the_interpreter(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    assert _run("--out", out, "--interpret") == 0
    done = {f"{part}: {name}" for part, units in read_json(out)["parts"].items() for name in units}
    assert done == UNITS


def test_waits_are_counted_by_torchs_warning() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warnings.warn("called a synchronizing CUDA operation (Triggered internally)", stacklevel=1)
        warnings.warn("something else", stacklevel=1)
    assert waits(caught) == 1


def test_dense_steps_learn_and_the_floor_counts_bytes() -> None:
    shape = Shape(n_p=4, n_q=8, k=2, batch=3)
    x, step = shape.rows("cpu"), DenseStep(shape, "cpu")
    losses = [float(step(x)) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    torch.testing.assert_close(step.W_D.detach().norm(dim=1), torch.ones(8))
    assert floor_bytes(shape) == {
        "weights and moments": 2 * 8 * 4 * 26,
        "active decoder rows": 2 * 3 * 2 * 4 * 2,
        "touched gradient rows": 2 * 3 * 2 * 4 * 4,
        "selection": 2 * 3 * 8 * 2,
    }


def test_without_a_device_it_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert _run("--out", tmp_path / "gpu.json") == 2
    err = capsys.readouterr().err
    assert err == "error: torch sees no CUDA device here; --interpret or --cpu runs every part at tiny sizes\n"
    assert not (tmp_path / "gpu.json").exists()
