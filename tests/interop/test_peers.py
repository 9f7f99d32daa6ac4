"""The proof: the peers' released packages make files that we read, and read files that we made.

Needs side environments: `make peers` (or `python -m benchmarks.peers NAME`); a peer that is not there is skipped.
"""

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.peers import PEERS, PEERS_DIR
from monosem import interop
from tests.interop.models import LAYERS, D, inputs, ours, values
from tests.interop.notes import write_notes
from tests.interop.rows import ROWS, Row

pytestmark = pytest.mark.slow

WIDE = {"circuit_tracer", "llamascopium"}
HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def proofs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Per peer, the folder where both sides put their files and the peer its values; made when first asked for."""
    return {}


def _proof(peer: str, proofs: dict[str, Path], factory: pytest.TempPathFactory) -> Path:
    python = PEERS_DIR / peer / "bin" / "python"
    if not (PEERS_DIR / peer / ".made").is_file():
        pytest.skip(f"no environment for {PEERS[peer].pin}; make it with `python -m benchmarks.peers {peer}`")
    if peer in proofs:
        return proofs[peer]
    root = factory.mktemp(peer)
    save_file({"x": inputs(D * LAYERS if peer in WIDE else D)}, root / "x.safetensors")
    if interop.FORMATS[peer].write:
        for case, (model, metadata) in ours(peer).items():
            interop.save(model, root / "ours" / case, peer, metadata)
    wanted = {row.case for row in ROWS if row.peer == peer and row.which == "notes"}
    for _, folder in write_notes(factory.mktemp("notes")):
        if folder.name in wanted:
            (root / "notes").mkdir(exist_ok=True)
            folder.rename(root / "notes" / folder.name)
    command = [str(python), str(HERE / "peers" / "run.py"), peer, str(root)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=root)
    assert done.returncode == 0, done.stderr[-4000:]
    proofs[peer] = root
    return root


def _close(found: Tensor, expected: Tensor, what: str) -> None:
    """To 1e-5 of the largest entry, and the same cells active."""
    assert found.shape == expected.shape, what
    scale = float(expected.abs().max())
    assert scale > 0.1, f"{what}: nothing to compare"
    error = float((found.double() - expected.double()).abs().max())
    assert error <= 1e-5 * scale, f"{what}: differs by {error:.3g} at scale {scale:.3g}"


@pytest.mark.parametrize("row", [row for row in ROWS if row.peer], ids=str)
def test_same_function(row: Row, proofs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> None:
    assert row.peer is not None
    root = _proof(row.peer, proofs, tmp_path_factory)
    theirs = load_file(root / "values" / row.which / f"{row.case}.safetensors")
    x = load_file(root / "x.safetensors")["x"]
    model = ours(row.peer)[row.case][0] if row.which == "ours" else interop.load(root / row.which / row.case)
    latents, x_hat = values(model, x[:, : model.layout.n_p])
    _close(latents, theirs["latents"], "latents")
    _close(x_hat, theirs["x_hat"], "reconstructions")
    _record(row)


def _record(row: Row) -> None:
    """Note that this row holds, for the table in the documentation (tests/interop/table.py asks for it)."""
    path = os.environ.get("MONOSEM_INTEROP_RECORD")
    if path and row.peer:
        with Path(path).open("a") as file:
            file.write(json.dumps([str(row), PEERS[row.peer].pin]) + "\n")


def test_saebench_takes_our_object(tmp_path: Path) -> None:
    python = PEERS_DIR / "saelens" / "bin" / "python"
    if not (PEERS_DIR / "saelens" / ".made").is_file():
        pytest.skip("no environment for SAEBench; make it with `python -m benchmarks.peers saelens`")
    root = HERE.parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root / "src"), "HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [str(python), str(HERE / "peers" / "saebench_check.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "SAEBench accepts the object" in done.stdout


FOLDED = {
    "topk-rescale", "abstopk-rescale", "training-topk", "training-batchtopk", "training-matryoshka", "input_scale",
    "whitening", "whitening-gated", "whitening-raw", "training-standard", "training-jumprelu", "training-gated",
    "standard-bfloat16", "training-topk-exported",
}  # fmt: skip


EXACT = [
    row
    for row in ROWS
    if row.peer and row.which == "theirs" and row.case not in FOLDED and interop.FORMATS[row.format].write
]


@pytest.mark.parametrize("row", EXACT, ids=str)
def test_round_trip_is_bit_exact(
    row: Row, proofs: dict[str, Path], tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    assert row.peer is not None
    root = _proof(row.peer, proofs, tmp_path_factory)
    loaded = interop.read(root / "theirs" / row.case)
    interop.save(loaded.model, tmp_path, row.format, loaded.metadata)
    before, after = _tensors(root / "theirs" / row.case), _tensors(tmp_path)
    assert before.keys() == after.keys()
    for name, value in before.items():
        again = after[name]
        if name.endswith(":threshold") and value.ndim:  # a negative threshold beside ReLU means 0
            value = value.clamp(min=0.0)
        assert again.dtype == value.dtype, name
        assert torch.equal(again, value), name


def _tensors(folder: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix == ".safetensors":
            found |= {f"{path.name}:{name}": value for name, value in load_file(path).items()}
        elif path.suffix == ".pt":
            found |= {f"{path.name}:{k}": value for k, value in torch.load(path, weights_only=True).items()}
    return found
