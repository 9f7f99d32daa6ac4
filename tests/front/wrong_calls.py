"""A grid of wrong calls, generated from public signatures: every argument takes every kind of wrong value in turn.

`python -m tests.wrong` counts the answers by class into wrong_calls.json beside this file, and writes the page.
"""

import contextlib
import inspect
import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import monosem as ms
from monosem.base.errors import MonosemError

WRONG: dict[str, Callable[[], Any]] = {
    "None": lambda: None,
    "text": lambda: "text",
    "negative": lambda: -1,
    "zero": lambda: 0,
    "fraction": lambda: 2.5,
    "NaN": lambda: math.nan,
    "infinity": lambda: math.inf,
    "object": object,
    "list": list,
    "dict": dict,
    "vector": lambda: torch.zeros(3),
    "rank 4": lambda: torch.zeros(2, 3, 4, 5),
    "NaN rows": lambda: torch.full((4, 8), math.nan),
    "whole rows": lambda: torch.zeros(4, 8, dtype=torch.int64),
}
RECORD = Path(__file__).with_suffix(".json")


@dataclass(frozen=True)
class Answer:
    """What a wrong call was answered with: a class of error, "accepted", or "raw"."""

    call: str
    kind: str
    text: str = ""


def _sparse_sums(rows: int) -> torch.Tensor:
    """Rows with one or two of six features in eight dimensions."""
    generator = torch.Generator().manual_seed(0)
    columns = torch.nn.functional.normalize(torch.randn(8, 6, generator=generator), dim=0)
    fires = torch.rand(rows, 6, generator=generator) < 0.2
    return (fires * (0.2 - torch.rand(rows, 6, generator=generator).log())) @ columns.T


def right_calls(folder: Path) -> dict[Callable[..., Any], dict[str, Any]]:
    """Public functions, and arguments with which each is right."""
    x = torch.randn(12, 8, generator=torch.Generator().manual_seed(0))
    method = ms.method("topk(k=2)")
    model = method.build(8, (8,), (8,))[0].eval()
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).eval()
    saved, anchors = ms.save(model, folder / "model"), ms.Anchors(torch.eye(8)[:, :2], torch.eye(8)[:, :2])
    anchors.save(folder / "anchors.safetensors")
    store = ms.harvest(network, "0:out", [x], folder / "store")
    edit: dict[str, Any] = {"latents": [0], "at": None}
    on_network: dict[str, Any] = {"network": network, "sdl": model, "at": "0:out"}
    return {
        ms.fit: {"method": "topk(k=2)", "rows": x, "n_q": 8, "steps": 1, "batch_size": 4},
        ms.evaluate: {"model": model, "rows": x},
        ms.score: {"model": model, "truth": torch.eye(8)},
        ms.inspect: {"model": model, "rows": x},
        ms.discover: {"rows": _sparse_sums(400), "most": 400},
        ms.open_rows: {"data": x},
        ms.load: {"path": saved},
        ms.save: {"model": model, "path": folder / "copy"},
        ms.describe: {"path": saved},
        ms.load_model: {"folder": saved},
        ms.save_model: {"model": model, "folder": folder / "copy"},
        ms.harvest: {"network": network, "sites": "0:out", "batches": [x], "out": folder / "again"},
        ms.splice: on_network,
        ms.steer: on_network,
        ms.add: edit | {"amount": 1.0},
        ms.clamp: edit | {"value": 1.0},
        ms.scale: edit | {"factor": 1.0},
        ms.zero: edit,
        ms.Anchors: {"p": torch.eye(8), "r": torch.eye(8)},
        ms.Anchoring: {},
        ms.class_means: {"x_p": x, "labels": torch.arange(12) % 3},
        ms.true_features: {"W_p": torch.eye(8), "W_r": torch.eye(8), "features": torch.arange(2)},
        ms.load_anchors: {"path": folder / "anchors.safetensors"},
        ms.open_store: {"folder": store.folder},
        ms.StoreSource: {"store": store},
        ms.TensorSource: {"x_p": x},
        ms.method: {"text": "topk(k=2)"},
        method.build: {"n_q": 8, "p_widths": (8,), "r_widths": (8,)},
        ms.FitConfig: {},
        ms.WorldSpec: {"n": 6, "widths": (8,), "max_interference": 0.5, "law": ms.bench.Independent(0.5)},
        ms.World: {"spec": ms.WorldSpec(6, (8,), 0.5, ms.bench.Independent(0.5))},
        ms.task: {"name": "lrb/nano"},
        ms.Problem: {"W_p": torch.eye(3), "W_r": torch.eye(3), "weights": torch.ones(3)},
        model.encode: {"x_p": x},
        model.decode: {"code": torch.zeros(2, 8)},
        model.forward: {"x_p": x},
        ms.theory.realize: {
            "problem": ms.Problem(torch.eye(2), torch.eye(2), torch.ones(2), n_q=2),
            "pattern": ms.theory.ActivationPattern.of([[0], [1]], 2),
        },
    }


def answers(folder: Path) -> Iterator[Answer]:
    """Every wrong call and how it was answered."""
    for function, right in right_calls(folder).items():
        yield _answer(function, "right", right)
        for name, parameter in inspect.signature(function).parameters.items():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            for kind, make in WRONG.items():
                if parameter.kind is not parameter.POSITIONAL_ONLY:
                    yield _answer(function, f"{name}: {kind}", right | {name: make()})


def _answer(function: Callable[..., Any], what: str, arguments: dict[str, Any]) -> Answer:
    call = f"{function.__name__}({what})"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            outcome = function(**arguments)
            if isinstance(outcome, contextlib.AbstractContextManager):
                with outcome:
                    pass
    except MonosemError as error:
        return Answer(call, type(error).__name__, str(error))
    except Exception as error:
        return Answer(call, "raw", f"{type(error).__name__}: {error}"[:200])
    return Answer(call, "accepted")


def recorded(folder: Path) -> dict[str, Any]:
    """How many calls were answered in which way."""
    given = list(answers(folder))
    counts = Counter(answer.kind for answer in given)
    functions = {answer.call.partition("(")[0] for answer in given}
    return {"calls": len(given), "functions": len(functions), "answers": dict(sorted(counts.items()))}
