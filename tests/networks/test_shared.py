"""Several processes run a network once: the rows of one process, whatever their number, and its store to the byte."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from monosem.base.errors import CheckpointError, DataError, RefusedError
from monosem.base.group import ALONE, Group
from monosem.data.store import open_store
from monosem.data.writer import Writer
from tests.group import together
from tests.networks.networks import Tiny, masked_batches
from tests.networks.shared import NETWORK, bytes_of, rows_of, stored, stream, watched_network
from tests.networks.test_live import Saving

STEPS = [(first, first + 9) for first in range(0, 180, 9)]
KINDS: dict[str, Any] = {"list": lambda: None, "saving": Saving, "function": lambda: lambda: iter(masked_batches(60))}


def _rows(
    size: int, pieces: list[tuple[int, int]], kind: str = "list", **options: Any
) -> list[tuple[Tensor, list[Any]]]:
    """(rows, the batches that were run) of each process."""

    def work(group: Group) -> tuple[Tensor, list[Any]]:
        ran: list[tuple[int, ...]] = []
        live = stream(group, ran, KINDS[kind](), **options)
        rows = rows_of(live, pieces)
        live.close()
        return rows, ran

    return together(size, work)


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_all_see_the_rows_of_one_process_and_no_batch_runs_twice(kind: str, size: int) -> None:
    ((wanted, _),) = _rows(1, STEPS, kind)
    several = _rows(size, STEPS, kind)
    for rows, _ in several:
        assert torch.equal(rows, wanted)
    ran = [batch for _, some in several for batch in some]
    assert all(some for _, some in several)
    if kind != "saving":  # its five batches come again and again
        assert len(set(ran)) == len(ran)


def test_an_iterator_ends_in_the_middle_of_a_round() -> None:
    """Five batches of 65 rows: the last of three processes has none in the last round."""

    def work(group: Group) -> Tensor:
        live = stream(group, [], iter(masked_batches()), buffer=16)
        rows = rows_of(live, [(first, first + 5) for first in range(0, 65, 5)])
        with pytest.raises(DataError, match="the stream ends after 65 rows, training asks for row 66"):
            live.take(torch.arange(65, 67))
        return rows

    (wanted,) = together(1, work)
    assert all(torch.equal(rows, wanted) for rows in together(3, work))


@pytest.mark.parametrize("limit", [None, 1.1])
def test_a_stream_goes_on_with_another_number_of_processes(limit: float | None, tmp_path: Path) -> None:
    """2, 4, 1 and 3 in turn on one cursor file, each somewhat back: as one that was never stopped."""
    options: dict[str, Any] = {"norm_limit": limit, "cursor": tmp_path / "cursor.json", "normalise": True}
    ((wanted, _),) = _rows(1, STEPS, **options | {"cursor": None})
    for size, first in ((2, 0), (4, 4), (1, 9), (3, 15)):
        for rows, ran in _rows(size, STEPS[first : first + 5], **options):
            assert torch.equal(rows, wanted[9 * first : 9 * (first + 5)])
            assert len(ran) < 20


def test_rows_travel_in_the_type_of_the_ring() -> None:
    narrow = {"dtype": torch.bfloat16}
    ((wanted, _),) = _rows(1, STEPS, **narrow)
    assert all(torch.equal(rows, wanted) for rows, _ in _rows(2, STEPS, **narrow))


def test_other_batches_in_one_process_are_refused() -> None:
    def other_first(group: Group) -> None:
        stream(group, [], masked_batches(60, seed=group.rank))

    def other_later(group: Group) -> None:
        rows_of(stream(group, [], lambda: iter(masked_batches(4) + masked_batches(9)[4 + group.rank :])), STEPS)

    with pytest.raises(DataError, match=r"processes \[1\] of 2 differ from process 0: give every process the same"):
        together(2, other_first)
    with pytest.raises(DataError, match=r"process \d gave \d+ rows for a batch of \d+; give all the same batches"):
        together(2, other_later)


def test_a_network_that_fails_in_one_process_ends_all() -> None:
    def work(group: Group) -> None:
        live = stream(group, [])
        if group.rank == 1:
            live.producer.runner.models[""].embed.weight.data = torch.zeros(3, 6)
        rows_of(live, STEPS)

    with pytest.raises(DataError, match="refuses the batch"):
        together(2, work)


def test_one_pass_for_several_dictionaries_is_of_one_process() -> None:
    with pytest.raises(RefusedError, match="in one process only"):
        together(2, lambda group: stream(group, []).view((0,)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    stored(ALONE, folder)
    return bytes_of(folder)


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("options", [{}, {"shard_rows": 9, "dtype": "int8", "rows": 31}], ids=["all", "some, int8"])
def test_a_store_of_several_has_the_bytes_of_one(size: int, options: dict[str, Any], tmp_path: Path) -> None:
    stored(ALONE, tmp_path / "one", **options)
    several = together(size, lambda group: stored(group, tmp_path / "several", **options).rows)
    assert set(several) == {open_store(tmp_path / "one").rows}
    assert bytes_of(tmp_path / "several") == bytes_of(tmp_path / "one")
    together(size, lambda group: stored(group, tmp_path / "several", **options))  # it is complete
    assert bytes_of(tmp_path / "several") == bytes_of(tmp_path / "one")


def _broken(folder: Path, size: int = 2) -> None:
    """A harvest whose last process fails at its third batch."""

    def work(group: Group) -> None:
        module, ran = copy.deepcopy(NETWORK), []

        def fail(*_: Any) -> None:
            ran.append(1)
            if len(ran) > 3 and group.rank == group.size - 1:
                raise KeyboardInterrupt

        module.register_forward_pre_hook(fail)
        stored(group, folder, module)

    with pytest.raises(KeyboardInterrupt):
        together(size, work)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_any_number_of_processes_goes_on(size: int, whole: dict[str, bytes], tmp_path: Path) -> None:
    afresh = tmp_path.with_name(f"{tmp_path.name}-afresh")
    _broken(tmp_path)
    assert list((tmp_path / "shards").glob(".*.json"))
    ran: list[tuple[int, ...]] = []
    together(size, lambda group: stored(group, tmp_path, watched_network(ran)))
    assert bytes_of(tmp_path) == whole
    resumed = len(ran)
    together(size, lambda group: stored(group, afresh, watched_network(ran)))
    assert resumed < len(ran) - resumed


def test_a_shard_that_is_lost_is_made_again_and_a_damaged_one_is_named(whole: dict[str, bytes], tmp_path: Path) -> None:
    _broken(tmp_path)
    shard = sorted((tmp_path / "shards").glob("0*"))[-1]
    column = np.load(shard / "token.npy")
    np.save(shard / "token.npy", column + 1)
    with pytest.raises(CheckpointError, match=rf"{shard.name}/token.npy has sha256 .* restore it or harvest again"):
        together(2, lambda group: stored(group, tmp_path))
    for file in shard.iterdir():
        file.unlink()
    shard.rmdir()
    together(2, lambda group: stored(group, tmp_path))
    assert bytes_of(tmp_path) == whole


def test_a_store_is_not_complete_without_every_shard(tmp_path: Path) -> None:
    sites = [{"name": "0:out", "model": "", "module": "0", "side": "out", "width": 1}]
    header = {"sites": sites, "dtype": "float32", "labels": None, "shard_rows": 2, "models": {}, "pool": "none"}
    writer = Writer(tmp_path, header | {"rows_wanted": None, "about": {}})
    columns = dict.fromkeys(("token", "document", "position"), np.zeros(2, np.int32))
    writer.append(1, [np.zeros((2, 1), np.float32)], columns)
    with pytest.raises(CheckpointError, match=r"lacks the shards \[0, 2\]; call the same harvest again"):
        writer.close(5)


def test_other_settings_in_one_process_are_refused(tmp_path: Path) -> None:
    networks = [Tiny(seed=seed) for seed in (0, 1)]
    with pytest.raises(DataError, match=r"processes \[1\] of 2 differ from process 0: give all the same network"):
        together(2, lambda group: stored(group, tmp_path, networks[group.rank]))
