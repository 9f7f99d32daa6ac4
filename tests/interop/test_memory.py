"""What opening a file takes: the model and a piece of it, read from the peak of a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monosem import interop
from monosem.base.files import write_json
from tests.cli.calls import environment

WIDTH, LATENTS, LAYERS = 512, 24576, 4
SIZE = 2 * WIDTH * LATENTS * 2
"""Bytes of both weights in bfloat16: 50 MB."""
MEASURE = """
import sys, torch
from pathlib import Path
from monosem import interop
import monosem.interop.api
interop.recognise(sys.argv[1])
def memory(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = memory("VmRSS")
kept = {call}
print(memory("VmHWM") - before)
"""


def _peak(path: Path, call: str) -> int:
    """By how many bytes the peak of a process grows in a call; all is imported before."""
    program = MEASURE.replace("{call}", call)
    ran = subprocess.run(
        [sys.executable, "-c", program, path], capture_output=True, text=True, env=environment(), check=False
    )
    assert ran.returncode == 0, ran.stderr
    return int(ran.stdout)


@pytest.fixture(scope="module")
def saelens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    weights = {"W_enc": (WIDTH, LATENTS), "W_dec": (LATENTS, WIDTH), "b_enc": (LATENTS,), "b_dec": (WIDTH,)}
    tensors = {name: torch.ones(shape, dtype=torch.bfloat16) for name, shape in weights.items()}
    save_file(tensors | {"threshold": torch.ones(LATENTS).bfloat16()}, folder / "sae_weights.safetensors")
    config = {"architecture": "jumprelu", "metadata": {"sae_lens_version": "6.37.7"}, "apply_b_dec_to_input": False}
    write_json(folder / "cfg.json", config)
    return folder


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cross-layer transcoder of circuit-tracer's, 63 MB."""
    folder = tmp_path_factory.mktemp("layers")
    count = LATENTS // 4
    for i in range(LAYERS):
        save_file(
            {f"W_enc_{i}": torch.ones(count, WIDTH).bfloat16(), f"b_enc_{i}": torch.ones(count).bfloat16(),
             f"b_dec_{i}": torch.ones(WIDTH).bfloat16()},
            folder / f"W_enc_{i}.safetensors",
        )  # fmt: skip
        decoder = torch.ones(count, LAYERS - i, WIDTH).bfloat16()
        save_file({f"W_dec_{i}": decoder}, folder / f"W_dec_{i}.safetensors")
    return folder


PIECE = 16 << 20
"""A piece that is mapped, and what the reader of a file keeps besides."""


def test_a_file_is_opened_in_its_own_size(saelens: Path) -> None:
    assert _peak(saelens, 'interop.load(sys.argv[1], dtype="file")') < 1.02 * SIZE + PIECE


def test_a_widened_file_is_opened_in_the_size_of_its_model(saelens: Path) -> None:
    assert _peak(saelens, "interop.load(sys.argv[1])") < 1.02 * 2 * SIZE + PIECE


def test_layers_are_read_one_by_one(layers: Path) -> None:
    size = sum(path.stat().st_size for path in layers.iterdir())
    assert _peak(layers, 'interop.load(sys.argv[1], dtype="file")') < 1.02 * size + PIECE


def test_the_measure_sees_what_is_taken(saelens: Path) -> None:
    assert _peak(saelens, "torch.ones(5 << 20)") > 20 << 20


def test_a_model_of_our_own_is_opened_in_its_size(saelens: Path, tmp_path: Path) -> None:
    interop.save(interop.load(saelens, dtype="file"), tmp_path)
    assert _peak(tmp_path, "interop.load(sys.argv[1])") < 1.02 * SIZE + PIECE


def test_describing_reads_headers(saelens: Path) -> None:
    assert _peak(saelens, "interop.describe(sys.argv[1])") < 8 << 20
