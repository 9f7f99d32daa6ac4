"""What processes do that share the batches of a network: a stream, a store; and a network that says what it ran."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monosem.base.group import Group
from monosem.data.batches import TokenFilter
from monosem.data.store import Store
from monosem.networks.harvest import harvest
from monosem.networks.live import LiveSource
from tests.networks.networks import Tiny, masked_batches

NETWORK = Tiny()
"""Made once: a network draws its weights from the random state that threads have in common."""


def watched_network(ran: list[tuple[int, ...]]) -> nn.Module:
    """A network that writes down the tokens of every batch it runs."""
    model = copy.deepcopy(NETWORK)

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        ran.append(tuple(kwargs["input_ids"].flatten().tolist()))

    model.register_forward_pre_hook(note, with_kwargs=True)
    return model


def stream(group: Group, ran: list[tuple[int, ...]], batches: Any = None, **options: Any) -> LiveSource:
    """Rows of a transcoder from a network that runs ahead."""
    given: dict[str, Any] = {"keep": TokenFilter(first=1), "buffer": 40, "seed": 3, "normalise": False} | options
    given |= {"batches": masked_batches(60) if batches is None else batches, "group": group}
    live = LiveSource(watched_network(ran), "layers.1.mlp:in", "layers.1.mlp:out", **given)
    ran.clear()  # the first batch, which says how wide the sites are
    return live


def rows_of(live: LiveSource, pieces: Sequence[tuple[int, int]]) -> Tensor:
    """Rows [first, last) of a stream, piece by piece."""
    return torch.cat([torch.cat(live.take(torch.arange(first, last)), 1) for first, last in pieces])


def stored(group: Group, folder: Path, module: nn.Module | None = None, **options: Any) -> Store:
    """A store of the same network, in shards smaller than a batch and larger ones."""
    given: dict[str, Any] = {"keep": TokenFilter((3, 17), 1), "shard_rows": 30, "dtype": "bfloat16"} | options
    return harvest(module or NETWORK, "layers.1:out", masked_batches(8), folder, group=group, **given)


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Every file of a store."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
