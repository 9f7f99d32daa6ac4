"""The parts of a day on a GPU: what each proves or times, one unit of work at a time."""

import copy
import gc
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu_pieces import CLIP, LR, DenseStep, Shape, Watch, floor_bytes, milliseconds, pieces
from benchmarks.ours import speed_method
from benchmarks.sizes import CASES, Size
from monosem import FitConfig, Result, TensorSource, load_model
from monosem.kernels.gpu.kept import Plan
from monosem.kernels.gpu.select import encode_top
from monosem.train import Run, fit

Unit = Callable[[], dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """Where and how large the parts run: "cuda"; or tiny, on the CPU, plainly or through Triton's interpreter."""

    mode: str
    shape: Shape
    timed: tuple[Shape, ...]
    steps: int
    rounds: int

    @property
    def device(self) -> str:
        """Where tensors lie."""
        return "cuda" if self.mode == "cuda" else "cpu"

    @property
    def programs(self) -> bool:
        """Whether the Triton programs run."""
        return self.mode != "cpu" and importlib.util.find_spec("triton") is not None


_TINY = (Shape(6, 24, 3, 4), (Shape(4, 20, 2, 3),), 2, 1)
SETTINGS: Mapping[str, Setting] = {
    "cuda": Setting(
        "cuda",
        Shape(256, 2048, 16, 512),
        (Shape(768, 16_000, 32, 4096), Shape(4096, 131_072, 64, 4096), Shape(4096, 131_072, 64, 32_768)),
        50,
        7,
    ),
    "interpret": Setting("interpret", *_TINY),
    "cpu": Setting("cpu", *_TINY),
}
WITHOUT = {"skipped": "the Triton programs need Triton and a device, or --interpret"}


@contextmanager
def served(setting: Setting) -> Iterator[None]:
    """Within it, tensors on the CPU go the way of a device's, if the Triton programs are interpreted."""
    ways = {"serves": lambda *tensors: True, "usable": lambda *tensors: False}  # the programs; the compiled kernels
    modules = [vars(m) for name, m in sys.modules.items() if name.startswith("monosem.")]
    before = [(names, way, names[way]) for names in modules for way in ways if way in names]
    if setting.mode == "interpret":
        for names, way, _ in before:
            names[way] = ways[way]
    try:
        yield
    finally:
        for names, way, real in before:
            names[way] = real


def _source(shape: Shape, method: str) -> TensorSource:
    """Four batches of rows, for the sides that a method asks for."""
    x = replace(shape, batch=4 * shape.batch).rows("cpu")
    turned = x.roll(1, 1)
    name = method.partition("(")[0]
    if name.endswith("transcoder"):
        return TensorSource(x, turned)
    widths = (shape.n_p, shape.n_p)
    return TensorSource(torch.cat([x, turned], 1), None, widths, widths) if "cross" in name else TensorSource(x)


def _trained(setting: Setting, case: str, device: str, **more: Any) -> Result:
    """A short run of `fit`; latents count as dead after two batches, so that AuxK has some to revive."""
    shape = setting.shape
    text = CASES[case].spec(Size("", shape.n_p, shape.n_q, shape.k))
    config = FitConfig(
        steps=setting.steps, batch_size=shape.batch, lr=LR, clip=CLIP, log_every=1, dead_window=2 * shape.batch,
        checkpoint_every=max(1, setting.steps // 4), sample_rows=shape.batch, device=device, **CASES[case].config,
    )  # fmt: skip
    return fit(speed_method(text), _source(shape, text), shape.n_q, config, **more)


def _apart(a: Any, b: Any) -> float:
    """The largest difference of two models' weights, over the largest weight."""
    pairs = [
        (getattr(a, name).detach().cpu(), getattr(b, name).detach().cpu()) for name in ("W_E", "W_D", "b_E", "b_D")
    ]
    return max(float((x - y).abs().max() / y.abs().max().clamp(min=1e-12)) for x, y in pairs)


def _fit(setting: Setting, case: str) -> dict[str, Any]:
    with served(setting):
        ours = _trained(setting, case, setting.device)
    cpu = _trained(setting, case, "cpu")
    first, last = (abs(ours.log[i]["loss"] / cpu.log[i]["loss"] - 1) for i in (0, -1))
    fell_back = {"fell_back": ours.log[-1]["fell_back"]} if "fell_back" in ours.log[-1] else {}
    good = first < 1e-4 and last < 0.02
    return {"ok": good, "first": first, "last": last, "weights": _apart(ours.model, cpu.model)} | fell_back


def fits(setting: Setting) -> dict[str, Unit]:
    """`fit` of every method on the device against the CPU: the losses of the first and of the last step."""
    return {name: partial(_fit, setting, name) for name in CASES if "dense" not in name}


def _resume(setting: Setting, case: str) -> dict[str, Any]:
    def child(**asked: Any) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "benchmarks.gpu_parts", setting.mode, f"case={case}"]
        command += [f"{name}={value}" for name, value in asked.items()]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    with tempfile.TemporaryDirectory() as home:
        broken, whole = Path(home) / "broken", Path(home) / "whole"
        runs = [child(out=broken, kill=setting.steps // 2 + 1), child(out=broken, kill=0), child(out=whole, kill=0)]
        if [run.returncode for run in runs] != [-signal.SIGKILL, 0, 0]:
            last = [(run.stderr.strip().splitlines() or [""])[-1] for run in runs]
            return {"ok": False, "exit": [run.returncode for run in runs], "stderr": last}
        apart = _apart(load_model(broken), load_model(whole))
    return {"ok": apart == 0.0 or (setting.device == "cuda" and apart < 1e-3), "weights": apart}


def resumes(setting: Setting) -> dict[str, Unit]:
    """A run that is killed with SIGKILL and resumed, against the same run without a break."""
    return {name: partial(_resume, setting, name) for name in ("topk", "topk_bf16", "jumprelu")}


def _redone(setting: Setting, shape: Shape) -> dict[str, Any]:
    if not setting.programs:
        return WITHOUT
    x, weight = shape.rows(setting.device), shape.start(setting.device)[0]
    again = int(encode_top(x, weight, torch.zeros(shape.n_q, device=setting.device), shape.k, low=True).redone)
    by_design = Plan.of(shape.n_q, shape.k) is None
    return {"ok": by_design or again <= 0.01 * shape.batch, "rows": shape.batch, "redone": again}


def redone(setting: Setting) -> dict[str, Unit]:
    """The share of rows that certified selection ranks over all their cells; more than 1 % is a failure."""
    few = [replace(shape, batch=min(shape.batch, 256)) for shape in setting.timed]
    return {str(shape): partial(_redone, setting, shape) for shape in dict.fromkeys(few)}


class _Stream:
    """The same batch again and again, where it will be used, with a mark at the start of every step."""

    rows, digest = None, "gpu-day"

    def __init__(self, shape: Shape, device: str, mark: Callable[[], object]) -> None:
        self.x, self.mark, self.sampled = shape.rows(device), mark, False
        self.p_widths = self.r_widths = (shape.n_p,)

    def take(self, index: Tensor) -> tuple[Tensor, Tensor]:
        """The sample for the start, from then on the batch."""
        if not self.sampled:
            self.sampled = True
            sample = self.x[: index.numel()].cpu()
            return sample, sample
        self.mark()
        return self.x, self.x


def _stream(setting: Setting, shape: Shape, case: str, steps: int, mark: Callable[[], object]) -> None:
    """Steps of the public `fit`, logged at the first and the last only."""
    config = FitConfig(
        steps=steps, batch_size=shape.batch, lr=LR, clip=CLIP, log_every=10**6, sample_rows=min(4096, shape.batch),
        device=setting.device, **CASES[case].config,
    )  # fmt: skip
    method = speed_method(CASES[case].spec(Size("", shape.n_p, shape.n_q, shape.k)))
    with served(setting):
        fit(method, _Stream(shape, setting.device, mark), shape.n_q, config)


def _floor(setting: Setting, shape: Shape) -> dict[str, Any]:
    """One bf16 encoder product, and the bytes of a step at the bandwidth of a copy."""
    x, weight = shape.rows(setting.device).bfloat16(), shape.start(setting.device)[0].bfloat16()
    product = milliseconds(lambda: torch.mm(x, weight.T), setting.device, setting.rounds)
    block = torch.empty(2**30 if setting.device == "cuda" else 2**20, dtype=torch.uint8, device=setting.device)
    other = torch.empty_like(block)
    bandwidth = 2 * block.numel() / milliseconds(lambda: other.copy_(block), setting.device, setting.rounds) * 1e3
    moved = floor_bytes(shape)
    return {"ms": product + sum(moved.values()) / bandwidth * 1e3, "product_ms": product, "bytes_per_s": bandwidth}


def _timed(setting: Setting, work: Callable[[], float]) -> dict[str, Any]:
    """Milliseconds, and on a device the peak of memory."""
    gc.collect()
    if setting.device != "cuda":
        return {"ms": work()}
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return {"ms": work(), "peak_gb": torch.cuda.max_memory_allocated() / 1e9}


def steps(setting: Setting, shape: Shape) -> dict[str, Unit]:
    """The floor of a step, then whole steps of `fit`, and the same step by dense autograd and torch's fused Adam."""

    def ours(case: str) -> float:
        watch, warm = Watch(setting.device), 3
        _stream(setting, shape, case, warm + setting.rounds + 1, watch)
        return median(watch.milliseconds()[warm:])

    def dense() -> float:
        step, x = DenseStep(shape, setting.device), shape.rows(setting.device)
        return milliseconds(lambda: step(x), setting.device, setting.rounds)

    cases = ("topk_bf16", "topk", "batch_topk", *(() if shape.n_q > 2**16 else ("matryoshka", "jumprelu")))
    works = {f"fit {case}": partial(_timed, setting, partial(ours, case)) for case in cases}
    floor = partial(_floor, setting, shape)
    return {"floor": floor, **works, "dense autograd, torch": partial(_timed, setting, dense)}


def _syncs(setting: Setting, case: str) -> dict[str, Any]:
    counts: list[int] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        if setting.device == "cuda":
            torch.cuda.set_sync_debug_mode("warn")
        try:
            _stream(setting, setting.shape, case, 6, lambda: counts.append(waits(caught)))
        finally:
            if setting.device == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    per_step = median(b - a for a, b in pairwise(counts[2:]))
    return {"per_step": per_step if setting.device == "cuda" else None}


def syncs(setting: Setting) -> dict[str, Unit]:
    """How often a step of `fit` waits for the device; nothing to count on a CPU."""
    return {name: partial(_syncs, setting, name) for name in ("topk", "topk_bf16", "batch_topk", "jumprelu")}


def waits(caught: list[warnings.WarningMessage]) -> int:
    """How many warnings say that the host waited for the device."""
    return sum("synchronizing CUDA operation" in str(warning.message) for warning in caught)


def programs(setting: Setting) -> dict[str, Any]:
    """Every Triton program once on small operands, and whether certified selection gives the k largest."""
    if not setting.programs:
        return WITHOUT
    shape = setting.shape
    for work in pieces(shape, setting.device).values():
        work()
    x, weight = shape.rows(setting.device), shape.start(setting.device)[0]
    top = encode_top(x, weight, torch.zeros(shape.n_q, device=setting.device), shape.k, low=True)
    exact = (x.double() @ weight.double().T).topk(shape.k).values
    apart = float((top.value.sort(1, descending=True).values.double() - exact).abs().max())
    return {"ok": apart < 1e-4, "apart": apart}


def _sanitized(setting: Setting, tool: str) -> dict[str, Any]:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None or setting.device != "cuda":
        return {"skipped": "compute-sanitizer is not installed, or there is no CUDA device"}
    command = [sanitizer, "--tool", tool, "--error-exitcode", "9", sys.executable, "-m", "benchmarks.gpu_parts"]
    done = subprocess.run([*command, setting.mode], capture_output=True, text=True, check=False)
    return {"ok": done.returncode == 0, "exit": done.returncode, "end": done.stdout[-2000:]}


def sanitized(setting: Setting) -> dict[str, Unit]:
    """The Triton programs alone, and under compute-sanitizer where it is installed."""
    checks = {tool: partial(_sanitized, setting, tool) for tool in ("memcheck", "racecheck")}
    return {"programs": partial(programs, setting), **checks}


def harvested(setting: Setting) -> dict[str, Any]:
    """Rows of a small transformer on the device against the same network on the CPU, then `fit` on them."""
    if importlib.util.find_spec("transformers") is None:
        return {"skipped": "transformers is not installed"}
    from transformers import GPT2Config, GPT2Model

    from monosem import LiveSource

    torch.manual_seed(0)
    network = GPT2Model(GPT2Config(n_layer=2, n_embd=16, n_head=2, vocab_size=97, n_positions=32)).eval()
    batches = [{"input_ids": torch.randint(97, (4, 16))} for _ in range(4)]
    rows = []
    for device in ("cpu", setting.device):
        source = LiveSource(copy.deepcopy(network).to(device), "h.1.mlp:out", None, batches, buffer=64, normalise=False)
        rows.append(source.take(torch.arange(64))[0].cpu())
    apart = float((rows[1] - rows[0]).abs().max() / rows[0].abs().max())
    config = FitConfig(steps=3, batch_size=32, sample_rows=32, device=setting.device)
    loss = fit(speed_method("topk(k=2)"), source, 64, config).log[-1]["loss"]
    return {"ok": apart < 1e-3, "rows": apart, "loss": loss}


def timed_pieces(setting: Setting, shape: Shape) -> dict[str, Any]:
    """The pieces of a step, ours beside torch's, on the same operands."""
    if not setting.programs:
        return WITHOUT
    works = pieces(shape, setting.device)
    return {name: milliseconds(piece, setting.device, setting.rounds) for name, piece in works.items()}


def tests(setting: Setting) -> dict[str, Any]:
    """The tests of the Triton programs, those marked gpu among them, where pytest is installed."""
    if setting.device != "cuda" or not all(map(importlib.util.find_spec, ("pytest", "hypothesis"))):
        return {"skipped": "pytest and hypothesis are not both installed, or there is no CUDA device"}
    command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "no:cacheprovider", "tests/kernels/gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return {"ok": done.returncode == 0, "end": (done.stdout + done.stderr)[-2000:]}


def parts(setting: Setting) -> dict[str, dict[str, Unit]]:
    """Every part, the most valuable first."""
    timed = [{f"steps {shape}": steps(setting, shape)} for shape in setting.timed]
    whole = {"fit": fits(setting), "kill and resume": resumes(setting), "redone": redone(setting)}
    for shapes in timed[:2]:
        whole |= shapes
    whole |= {"syncs": syncs(setting), "sanitizer": sanitized(setting)}
    whole["harvest"] = {"live": partial(harvested, setting)}
    for shapes in timed[2:]:
        whole |= shapes
    whole |= {f"pieces {shape}": {"ms": partial(timed_pieces, setting, shape)} for shape in setting.timed}
    return whole | {"tests": {"pytest": partial(tests, setting)}}


def prepare(setting: Setting) -> None:
    """Before anything imports Triton: the interpreter where it is asked for, and full float32 products."""
    if setting.mode == "interpret":
        os.environ["TRITON_INTERPRET"] = "1"
    torch.set_float32_matmul_precision("highest")


def _main(mode: str, *given: str) -> None:
    """A process of its own: all programs, or one run that may kill itself."""
    setting, asked = SETTINGS[mode], dict(text.split("=", 1) for text in given)
    prepare(setting)
    if not asked:
        sys.exit(not programs(setting).get("ok", True))

    def kill(run: Run, entry: dict[str, float]) -> None:
        if run.step == int(asked["kill"]):
            os.kill(os.getpid(), signal.SIGKILL)

    with served(setting):
        _trained(setting, asked["case"], setting.device, out=asked["out"], callbacks=[kill])


if __name__ == "__main__":
    _main(*sys.argv[1:])
