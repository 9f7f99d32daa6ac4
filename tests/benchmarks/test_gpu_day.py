"""tools/gpu_check: everything that it times runs, and it says so where it cannot."""

import time
from collections.abc import Callable
from unittest.mock import patch

import pytest
import torch

from benchmarks import gpu_day as gpu_check
from benchmarks.gpu_pieces import Shape
from tests.kernels.gpu.where import DEVICE, needs_triton

pytestmark = needs_triton


def _seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return (time.perf_counter() - start) * 1e3 + 1e-6


@pytest.mark.slow
def test_every_piece_and_step_runs() -> None:
    """Small sizes, once each, by the wall clock: no contender fails, and the summary names them all."""
    with patch.object(gpu_check, "WARM", 0):
        size = gpu_check.measure(Shape(n_p=4, n_q=20, k=2, batch=3), 1, DEVICE, _seconds)
    contenders = size["pieces"] | size["steps"]
    assert not {name: out["error"] for name, out in contenders.items() if "error" in out}
    assert size["floor"]["ms"] > size["floor"]["product_ms"] > 0
    record = {"device": {"name": "this one", "triton": "3"}, "env": {"torch": "2"}, "sizes": [size]}
    text = gpu_check.summary(record)
    assert all(name in text for name in contenders)
    assert "failed" not in text


def test_a_contender_that_fails_is_a_result() -> None:
    def fails() -> None:
        raise ValueError("no room")

    found = gpu_check._turns({"well": lambda: None, "badly": fails}, 2, _seconds)
    assert len(found["well"]["ms"]) == 2
    assert found["badly"] == {"ms": [], "error": "ValueError: no room"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--shape", "1,2,3"], "four numbers"), (["--rounds", "0"], "at least 1"), ([], "no CUDA device")],
)
def test_wrong_calls_are_explained(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu_check.main(["--out", "record.json", *arguments])
    assert said in capsys.readouterr().err
