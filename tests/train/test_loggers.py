"""Trackers: TensorBoard's file read back by its own format, trackio and wandb by fakes of what they document."""

import struct
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from monosem.base.errors import ArgumentError
from monosem.core.pairs import TensorSource
from monosem.train.config import FitConfig
from monosem.train.loggers import Logger, TensorBoard, Trackio, WandB, crc32c, logged, tracker
from monosem.train.loop import fit

CONFIG = FitConfig(steps=6, batch_size=8, log_every=2)


def _fit(logger: Logger) -> list[dict[str, float]]:
    rows = TensorSource(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
    with logged(logger, {"method": "topk(k=2)", "n_q": 16}) as callback:
        return fit("topk(k=2)", rows, 16, CONFIG, callbacks=[callback]).log


def _fields(message: bytes) -> list[tuple[int, Any]]:
    """Fields of a protocol buffer, by its wire format."""
    fields, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        key = varint()
        if key & 7 == 0:
            fields.append((key >> 3, varint()))
        elif key & 7 == 2:
            length = varint()
            fields.append((key >> 3, message[at : at + length]))
            at += length
        else:
            kind, size = ("<d", 8) if key & 7 == 1 else ("<f", 4)
            fields.append((key >> 3, struct.unpack(kind, message[at : at + size])[0]))
            at += size
    return fields


def _events(path: Path) -> list[dict[int, Any]]:
    data, at, events = path.read_bytes(), 0, []
    while at < len(data):
        (length,) = struct.unpack("<Q", data[at : at + 8])
        body = data[at + 12 : at + 12 + length]
        for part, place in ((data[at : at + 8], at + 8), (body, at + 12 + length)):
            (masked,) = struct.unpack("<I", data[place : place + 4])
            rotated = masked - 0xA282EAD8 & 0xFFFFFFFF
            assert (rotated >> 17 | rotated << 15) & 0xFFFFFFFF == crc32c(part)
        events.append(dict(_fields(body)))
        at += 16 + length
    return events


def test_tensorboard(tmp_path: Path) -> None:
    log = _fit(TensorBoard(tmp_path))
    (path,) = tmp_path.glob("events.out.tfevents.*")
    first, *events = _events(path)
    assert first[3] == b"brain.Event:2"
    assert [event[2] for event in events] == [entry["step"] for entry in log] == [1, 2, 4, 6]
    for event, entry in zip(events, log, strict=True):
        values = [dict(_fields(value)) for field, value in _fields(event[5]) if field == 1]
        read = {value[1].decode(): value[2] for value in values}
        assert read == pytest.approx({name: v for name, v in entry.items() if name != "step"}, rel=1e-6)
    assert events[0][1] > 1.7e9
    _fit(TensorBoard(tmp_path))
    assert len(list(tmp_path.iterdir())) == 2


class FakeTracker:
    """What trackio documents, and the run that wandb documents."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def init(self, *, project: str, name: str | None = None, config: dict[str, Any], **more: Any) -> "FakeTracker":
        self.calls.append(("init", project, name, config, more))
        return self

    def log(self, values: dict[str, float], *, step: int | None = None) -> None:
        self.calls.append((step, values))

    def finish(self) -> None:
        self.calls.append("finish")


@pytest.mark.parametrize("kind", ["trackio", "wandb"])
def test_other_trackers(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTracker()
    monkeypatch.setitem(sys.modules, kind, SimpleNamespace(init=fake.init, log=fake.log, finish=fake.finish))
    kinds = {"trackio": Trackio, "wandb": WandB}
    log = _fit(kinds[kind]("stories", "first", mode="offline"))
    begun, *steps, ended = fake.calls
    assert begun == ("init", "stories", "first", {"method": "topk(k=2)", "n_q": 16}, {"mode": "offline"})
    assert [step for step, _ in steps] == [1, 2, 4, 6]
    assert steps[-1][1]["fvu"] == log[-1]["fvu"]
    assert ended == "finish"


def test_a_tracker_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(tracker("tensorboard:runs/a"), TensorBoard)
    made = tracker("wandb:stories/second")
    assert isinstance(made, WandB)
    assert (made.project, made.name) == ("stories", "second")
    for wrong in ("wandb", "tensorboard:", "mlflow:x"):
        with pytest.raises(ArgumentError, match="write tensorboard:FOLDER, trackio:PROJECT"):
            tracker(wrong)
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ArgumentError, match="wandb is not installed"):
        _fit(made)


@pytest.mark.usefixtures("as_in_production")
def test_of_several_processes_the_first_alone_logs() -> None:
    calls = []
    logger = SimpleNamespace(
        begin=lambda settings: calls.append("begin"),
        log=lambda *entry: calls.append("log"),
        end=lambda: calls.append("end"),
    )
    for rank in (1, 0):
        run = SimpleNamespace(step=1, model=SimpleNamespace(group=SimpleNamespace(rank=rank)))
        with logged(logger) as callback:
            callback(run, {"loss": 1.0})  # type: ignore[arg-type]
            callback(run, {"loss": 1.0})  # type: ignore[arg-type]
        assert calls == ([] if rank else ["begin", "log", "log", "end"])
