"""The command under torchrun: what one process says and writes, from several; and one that is killed changes no bit."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from monosem.core.io import load_model
from monosem.data.store import open_store
from tests.networks.llamas import save_llama
from tests.train.victims import contents

pytestmark = pytest.mark.slow


def _start(out: Path, size: int, steps: int) -> "subprocess.Popen[str]":
    rows = out.parent / "rows.safetensors"
    if not rows.exists():
        save_file({"x": torch.randn(500, 12, generator=torch.Generator().manual_seed(0))}, rows)
    options = f"--method batch_topk(k=4) --n-q 41 --steps {steps} --batch-size 32 --checkpoint-every 10 --threads 1"
    command = f"-m monosem train --data {rows} --out {out} {options}".split()
    if size > 1:
        started = f"-m torch.distributed.run --standalone --max-restarts 3 --nproc-per-node {size}".split()
        command = [*started, *command, "--mesh", f"latents={size}"]
    return subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _on_network(folder: Path, command: str, size: int, more: str = "") -> str:
    """A command on a small network and texts, in some processes."""
    if not (folder / "llama").exists():
        save_llama(folder / "llama")
        texts = [" ".join(f"<{(7 * n + i) % 40}>" for i in range(9 + n % 5)) for n in range(60)]
        (folder / "texts.txt").write_text("\n".join(texts))
    words = f"-m monosem {command} --network {folder}/llama --text {folder}/texts.txt --length 16 {more}".split()
    if size > 1:
        words = f"-m torch.distributed.run --standalone --nproc-per-node {size}".split() + words
    return _finish(subprocess.Popen([sys.executable, *words], stdout=-1, stderr=-1, text=True))


def test_a_network_in_several_processes(tmp_path: Path) -> None:
    """Whole in each, or split over them: the store to the byte, or to rounding; and training on it as it runs."""
    read = "--read model.layers.1:out --batch-tokens 64"
    for size, more in ((1, ""), (2, "--mesh rows=2"), (2, "--mesh rows=2 --device-map tp")):
        out = tmp_path / f"{size}{more[-2:]}"
        _on_network(tmp_path, f"harvest {read} --shard-rows 100 --out {out}", size, more)
    one, two, split = (open_store(tmp_path / name) for name in ("1", "2=2", "2tp"))
    assert (two.folder / "manifest.json").read_bytes() == (one.folder / "manifest.json").read_bytes()
    two.verify()
    index = torch.arange(one.rows)
    rows = [store.table(store.sites[0]).take(index) for store in (one, two, split)]
    assert torch.equal(rows[1], rows[0])
    torch.testing.assert_close(rows[2], rows[0], rtol=1e-3, atol=1e-3)
    train = (
        f"train {read} --method topk(k=2) --n-q 24 --steps 20 --batch-size 16 --buffer 128 --held-out 20 --threads 1"
    )
    said = [
        _on_network(tmp_path, f"{train} --out {tmp_path}/run{number}", size, more)
        for number, (size, more) in enumerate(
            ((1, ""), (2, "--mesh latents=2"), (2, "--mesh latents=2 --device-map tp"))
        )
    ]
    assert all("FVU" in text for text in said)
    wanted = load_model(tmp_path / "run0").W_D
    for number in (1, 2):
        torch.testing.assert_close(load_model(tmp_path / f"run{number}").W_D, wanted, rtol=0, atol=1e-3)


def _finish(process: "subprocess.Popen[str]") -> str:
    out, err = process.communicate(timeout=500)
    assert process.returncode == 0, err
    return out


def _workers(process: "subprocess.Popen[str]") -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [pid for pid in map(int, children) if b"monosem" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def test_several_processes_say_and_write_what_one_does(tmp_path: Path) -> None:
    one, two = (_finish(_start(tmp_path / str(size), size, 40)) for size in (1, 2))
    assert "FVU" in one
    assert [line.split()[:2] for line in two.splitlines()][:4] == [line.split()[:2] for line in one.splitlines()][:4]
    wanted, ours = load_model(tmp_path / "1"), load_model(tmp_path / "2")
    torch.testing.assert_close(ours.W_D, wanted.W_D, rtol=0, atol=1e-3)
    assert {path.name for path in (tmp_path / "2").iterdir()} >= {"checkpoint.json", "model.safetensors", "log.jsonl"}


def test_a_killed_process_is_started_again_and_changes_no_bit(tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    _finish(_start(whole, 2, 300))
    process = _start(again, 2, 300)
    while not (again / "checkpoint.json").exists():
        time.sleep(0.05)
    os.kill(_workers(process)[-1], signal.SIGKILL)
    _finish(process)
    assert contents(again) == contents(whole)
