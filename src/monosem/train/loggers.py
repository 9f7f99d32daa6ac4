"""Trackers: what a run logs, sent to TensorBoard, trackio, Weights & Biases, or anything with three functions."""

import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from monosem.base.errors import ArgumentError, check
from monosem.train.state import Run


@runtime_checkable
class Logger(Protocol):
    """Where the numbers of a run go."""

    def begin(self, settings: Mapping[str, Any]) -> None:
        """Called once, with what describes the run."""
        ...

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Called at every logged step."""
        ...

    def end(self) -> None:
        """Called once."""
        ...


class logged:
    """`fit(..., callbacks=[tracker])` with `logged(logger, settings) as tracker`: all log entries go to the logger.

    It begins at the first of them; of several processes that share a run the first one alone logs.

    Example:
        >>> from monosem import FitConfig, TensorSource, fit
        >>> import tempfile, torch
        >>> rows = TensorSource(torch.randn(64, 8, generator=torch.Generator().manual_seed(0)))
        >>> folder = Path(tempfile.mkdtemp())
        >>> with logged(TensorBoard(folder), {"method": "topk(k=2)"}) as tracker:
        ...     _ = fit("topk(k=2)", rows, 16, FitConfig(steps=3, batch_size=8), callbacks=[tracker])
        >>> len(list(folder.glob("events.out.tfevents.*")))
        1
    """

    def __init__(self, logger: Logger, settings: Mapping[str, Any] | None = None) -> None:
        self.logger, self.settings, self._begun = logger, dict(settings or {}), False

    def __enter__(self) -> Callable[[Run, dict[str, float]], None]:
        return self._log

    def __exit__(self, *_: object) -> None:
        if self._begun:
            self.logger.end()

    def _log(self, run: Run, entry: dict[str, float]) -> None:
        if run.model.group.rank > 0:
            return
        if not self._begun:
            self.logger.begin(self.settings)
            self._begun = True
        self.logger.log(run.step, {name: float(value) for name, value in entry.items() if name != "step"})


class TensorBoard:
    """Scalars in an event file, which `tensorboard --logdir FOLDER` shows; nothing is imported for it.

    A run that goes on begins another file in the same folder, and TensorBoard joins them.
    Source: the record format of TensorFlow's events (length, masked CRC-32C, Event as protocol buffer).
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.path: Path | None = None

    def begin(self, settings: Mapping[str, Any]) -> None:
        """A new file; the settings are left to the run's own record."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}"
        number = len(list(self.folder.glob(f"{name}*")))
        self.path = self.folder / f"{name}.{number}"
        self._write(_double(1, time.time()) + _bytes(3, b"brain.Event:2"))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One event with all values."""
        parts = (_bytes(1, _bytes(1, name.encode()) + _float(2, value)) for name, value in values.items())
        self._write(_double(1, time.time()) + _whole(2, step) + _bytes(5, b"".join(parts)))

    def end(self) -> None:
        """Everything is on disk already."""

    def _write(self, event: bytes) -> None:
        check(self.path is not None, "the logger has not begun; use it in `with logged(...)`")
        assert self.path is not None
        length = struct.pack("<Q", len(event))
        with self.path.open("ab") as file:
            file.write(length + _masked(length) + event + _masked(event))


class Trackio:
    """trackio, which keeps runs on this machine."""

    def __init__(self, project: str, name: str | None = None, **options: Any) -> None:
        self.project, self.name, self.options = project, name, options

    def begin(self, settings: Mapping[str, Any]) -> None:
        """A run of its own."""
        self._module = _package("trackio")
        self._module.init(project=self.project, name=self.name, config=dict(settings), **self.options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """All values of a step."""
        self._module.log(dict(values), step=step)

    def end(self) -> None:
        """Hand over what is left."""
        self._module.finish()


class WandB:
    """Weights & Biases; `id` with resume="allow" among `options` goes on with a run."""

    def __init__(self, project: str, name: str | None = None, **options: Any) -> None:
        self.project, self.name, self.options = project, name, options

    def begin(self, settings: Mapping[str, Any]) -> None:
        """A run of its own."""
        module = _package("wandb")
        self._run = module.init(project=self.project, name=self.name, config=dict(settings), **self.options)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """All values of a step."""
        self._run.log(dict(values), step=step)

    def end(self) -> None:
        """Hand over what is left."""
        self._run.finish()


def tracker(text: str) -> Logger:
    """A logger as it is written: "tensorboard:FOLDER", "trackio:PROJECT" or "wandb:PROJECT/NAME".

    Example:
        >>> tracker("trackio:stories").project
        'stories'
    """
    kind, _, rest = text.partition(":")
    known: dict[str, Callable[..., Logger]] = {"trackio": Trackio, "wandb": WandB}
    if kind == "tensorboard" and rest:
        return TensorBoard(rest)
    if kind in known and rest:
        project, _, name = rest.partition("/")
        return known[kind](project, name or None)
    raise ArgumentError(f"tracker={text!r}; write tensorboard:FOLDER, trackio:PROJECT or wandb:PROJECT/NAME")


def _package(name: str) -> Any:
    """Raises: ArgumentError where a tracker's package is not installed."""
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:
        raise ArgumentError(f"the package {name} is not installed; install it, or log to tensorboard:FOLDER") from None


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def _whole(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _double(field: int, value: float) -> bytes:
    return _varint(field << 3 | 1) + struct.pack("<d", value)


def _float(field: int, value: float) -> bytes:
    return _varint(field << 3 | 5) + struct.pack("<f", value)


def _bytes(field: int, value: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(value)) + value


def _table() -> list[int]:
    """CRC-32C of every byte (polynomial 0x1EDC6F41, reflected)."""
    table = []
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table


_CRC = _table()


def crc32c(data: bytes) -> int:
    """The Castagnoli checksum.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
    """
    value = 0xFFFFFFFF
    for byte in data:
        value = _CRC[(value ^ byte) & 255] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _masked(data: bytes) -> bytes:
    """The checksum as records hold it, rotated and shifted so that it may be part of checked data itself."""
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
