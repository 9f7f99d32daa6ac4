"""Other libraries as contenders: their own training steps, in side environments made by tools/peers.py."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from monosem.bench.speed.beat import Beat
from monosem.bench.speed.sizes import Size

__all__ = ["PEERS", "Peer", "environments"]


class Peer(Protocol):
    """A library: its version, and how it trains a case with its own step."""

    version: str

    def train(self, case: str, size: Size, beat: Beat) -> None:
        """Step until the driver has had enough, with a beat before every step."""


PEERS: Mapping[str, type[Peer]] = {}


def environments(folder: Path) -> dict[str, str]:
    """The side environments that are there: the python of each peer."""
    found = {name: folder / name / "bin" / "python" for name in PEERS}
    return {name: str(path) for name, path in found.items() if path.exists()}
