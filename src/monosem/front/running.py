"""harvest, steer and splice: a network as a module, or by the name of its folder; texts, or batches of tokens."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from monosem.core.model import SDL
from monosem.data.store import Store
from monosem.front.given import Network, as_model, network_of, tokens_of
from monosem.networks import harvest as harvest_sites
from monosem.networks import splice as splice_model
from monosem.networks import steer as steer_network
from monosem.networks.edits import Edit
from monosem.networks.splice import Spliced
from monosem.train.result import Result


def harvest(network: Network, sites: str, batches: Any, out: str | Path, **options: Any) -> Store:
    """Store what passes some sites of a network, to train on.

    `network`: a module, several by name, a transformers folder or a name in the cache. `sites`: "model.layers.5:out",
    or "model.layers.*.mlp:in,out". `batches`: texts (a list, or a .txt, .jsonl or .parquet file) where the network is
    named by its folder; else batches of tokens. `out`: the store's folder; called again after a kill, it goes on.
    Special tokens of texts are no rows. More options: `monosem.networks.harvest`.
    Raises: ArgumentError for a site that is not there, with those that are; DataError, CheckpointError.
    """
    module, tokenizer = network_of(network)
    rows, known = tokens_of(batches, tokenizer)
    return harvest_sites(module, sites, rows, out, **{**known, **options})


@contextmanager
def steer(
    network: nn.Module | str | Path,
    sdl: SDL | Result | str | Path,
    at: str,
    *edits: Edit,
    to: str | None = None,
    rows: Any = None,
) -> Iterator[nn.Module]:
    """A context in which a network runs with some latents edited: ms.add(12, 8.0), ms.clamp, ms.scale, ms.zero.

    `network`: a module, or a transformers folder or a name, which is opened and given: `with ms.steer("stories15m",
    sae, "model.layers.3:out", ms.add(12, 8.0)) as network`. `sdl`: a dictionary, what `fit` returned, or a path. `at`,
    `to`, `rows`: as for `monosem.networks.steer`.
    """
    module, _ = network_of(network)
    with steer_network(module, as_model(sdl), at, *edits, to=to, rows=rows):
        yield module


def splice(
    network: nn.Module | str | Path,
    sdl: SDL | Result | str | Path,
    at: str,
    to: str | None = None,
    error: bool = False,
    mask: Any = None,
) -> AbstractContextManager[Spliced]:
    """A context in which a dictionary's reconstruction replaces what it reconstructs in the network.

    `network`, `sdl`: as for `steer`; what is left behind holds the network, in `network`, and the code. `at`, `to`,
    `error`, `mask`: as for `monosem.networks.splice`.
    """
    module, _ = network_of(network)
    return splice_model(module, as_model(sdl), at, to, error, mask)
