"""Reading a store: any rows in any order against the whole, contexts, sources of every pairing, damaged files."""

import errno
import json
import os
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch

from monosem.base.errors import ArgumentError, CheckpointError, DataError, OutputError
from monosem.core.activations import TopK
from monosem.core.io import load_model
from monosem.core.pairs import PAIRINGS, Rows, TensorSource
from monosem.data.class_means import class_anchors
from monosem.data.source import StoreSource, sites_for
from monosem.data.store import Sharded, Store, open_store
from monosem.losses.fidelity import Reconstruction
from monosem.losses.objective import State, Step, Term
from monosem.methods import Method
from monosem.networks.harvest import harvest
from monosem.train.config import FitConfig
from monosem.train.loop import Order, fit
from tests.networks.networks import Tiny, masked_batches

SITES = "layers.*.mlp:in,out; layers.1:out"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of seven sites in shards of 20 rows, with labels."""
    made = tmp_path_factory.mktemp("store")
    batches = [batch | {"labels": batch["input_ids"][:, 0] % 3} for batch in masked_batches(8)]
    words = [f" w{i}" for i in range(39)]
    harvest(Tiny(), SITES, batches, made, shard_rows=20, labels=["a", "b", "c"], vocabulary=words)
    return made


@pytest.fixture
def store(folder: Path) -> Store:
    """Opened afresh: nothing is mapped yet."""
    return open_store(folder)


def test_rows_in_any_order(store: Store) -> None:
    table = store.table("layers.1:out")
    whole = torch.cat([rows for _, rows in table.chunks()])
    assert whole.shape == (store.rows, 6)
    generator = torch.Generator().manual_seed(0)
    for size in (0, 1, 3, 50, 500):
        index = torch.randint(0, store.rows, (size,), generator=generator)
        assert torch.equal(table.take(index), whole[index])
    values = table.values
    assert np.array_equal(values[5], whole[5].numpy())
    assert np.array_equal(values[-1], whole[-1].numpy())
    for start, stop in ((0, 20), (13, 47), (19, 21), (40, 40), (60, 10_000)):
        assert np.array_equal(values[start:stop], whole[start:stop].numpy())
    for wrong in (store.rows, -store.rows - 1):
        with pytest.raises(DataError, match=f"the store has rows 0 to {store.rows - 1}"):
            values[np.array([0, wrong])]
    with pytest.raises(DataError, match="not float64"):
        values[np.array([0.5])]


def test_only_what_is_read_is_opened(store: Store) -> None:
    values = store.table("layers.1:out").values
    assert isinstance(values, Sharded)
    values[25], values[38]
    assert list(values._maps) == [1]


def test_contexts_stay_in_their_document(store: Store) -> None:
    documents, positions = store.documents[0 : store.rows], store.positions[0 : store.rows]
    for row in range(store.rows):
        found = store.context(row, before=3, after=2)
        assert row in found
        by_hand = [r for r in range(row - 3, row + 3) if 0 <= r < store.rows and documents[r] == documents[row]]
        assert list(found) == by_hand
        assert np.all(np.diff(positions[found.start : found.stop]) == 1)
    assert store.text(slice(0, 2)) == [f" w{int(t)}" if t < 39 else f"<{int(t)}>" for t in store.tokens[0:2]]
    ranges = list(store.chunks(30))
    assert [row for part in ranges for row in part] == list(range(store.rows))


class Witness(Term):
    """Notes where the rows of each step come from."""

    seen: ClassVar[list[Rows | None]] = []

    def apply(self, step: Step, state: State) -> torch.Tensor:
        self.seen.append(step.rows)
        return step.x_r.new_zeros(())


def test_a_step_knows_which_tokens_its_rows_are(store: Store) -> None:
    """Rows of a store say their token, document and place; those of a tensor their numbers alone."""
    source = StoreSource(store, "layers.1:out")
    config = FitConfig(steps=3, batch_size=16, seed=4)
    method = Method(TopK(2), (Reconstruction(), Witness()))
    Witness.seen.clear()
    fit(method, source, 12, config)
    order = Order(source.rows, 16, 4)
    assert len(Witness.seen) == 3
    for number, rows in enumerate(Witness.seen):
        assert rows is not None
        index = order.index(number)
        assert torch.equal(rows.index, index)
        for column, stored in (
            (rows.token, store.tokens),
            (rows.document, store.documents),
            (rows.position, store.positions),
        ):
            assert column is not None
            assert column.tolist() == [int(stored[int(i)]) for i in index]
    Witness.seen.clear()
    fit(method, TensorSource(source.take(torch.arange(20))[0]), 12, config)
    assert len(Witness.seen) == 3
    for rows in Witness.seen:
        assert rows is not None
        assert (len(rows.index), rows.token, rows.document, rows.position) == (16, None, None, None)


def test_sources_of_every_pairing(store: Store) -> None:
    index = torch.tensor([41, 0, 19, 20])
    rows = {site: store.table(site).take(index) for site in store.sites}
    ins, outs = ([f"layers.{i}.mlp:{side}" for i in range(3)] for side in ("in", "out"))
    cases = [
        ("sae", "layers.1:out", None, ["layers.1:out"], None),
        ("transcoder", "layers.1.mlp:in", "layers.1.mlp:out", ["layers.1.mlp:in"], ["layers.1.mlp:out"]),
        ("crosscoder", "layers.*.mlp:out", None, outs, None),
        ("cross_layer", None, "layers.*.mlp:out", ins, outs),
    ]
    for pairing, read, write, reads, writes in cases:
        chosen = sites_for(PAIRINGS[pairing], store, read, write)
        assert [list(side) if side else None for side in chosen] == [reads, writes]
        source = StoreSource(store, *chosen, normalise=False)
        x_p, x_r = source.take(index)
        assert torch.equal(x_p, torch.cat([rows[site] for site in reads], 1))
        assert torch.equal(x_r, torch.cat([rows[site] for site in writes or reads], 1))
        assert source.p_widths == (6,) * len(reads)
        assert source.r_widths == (6,) * len(writes or reads)
        PAIRINGS[pairing].layout(12, source.p_widths, source.r_widths)


@pytest.mark.parametrize(
    ("pairing", "read", "write", "says"),
    [
        ("sae", None, None, "an SAE reads one site; say which of: layers.0.mlp:in"),
        ("sae", "layers.1:out", "layers.2.mlp:out", "writes what it reads"),
        ("transcoder", None, None, "a transcoder reads some sites and writes others; say which of"),
        ("transcoder", "layers.1.mlp:in", "nowhere:out", "no site 'nowhere:out'; known: layers.0.mlp:in"),
    ],
)
def test_a_choice_is_asked_for(pairing: str, read: str | None, write: str | None, says: str, store: Store) -> None:
    with pytest.raises(ArgumentError, match=says):
        sites_for(PAIRINGS[pairing], store, read, write)


def test_a_trained_model_takes_raw_rows(store: Store, tmp_path: Path) -> None:
    """Saved, loaded, on raw rows: what training saw, in raw units. A second call changes nothing."""
    source = StoreSource(store, "layers.1.mlp:in", "layers.1.mlp:out")
    assert source.units is not None
    config = FitConfig(steps=30, batch_size=16, lr=1e-2, log_every=30)
    result = fit("topk_transcoder(k=3)", source, 24, config, out=tmp_path)
    index = torch.arange(store.rows)
    x_p, x_r = source.sample(10_000)
    assert torch.equal(x_p, store.table("layers.1.mlp:in").take(index))
    saved = load_model(tmp_path)
    assert torch.equal(saved.W_D, result.model.W_D)
    with torch.no_grad():
        error = (saved(x_p).x_r_hat - x_r).square().sum() / (x_r - x_r.mean(0)).square().sum()
        raw, seen = source.take(index)
        logged = (source.units.written(saved(x_p).x_r_hat) - seen).square().sum() / seen.square().sum()
    assert float(error) == pytest.approx(float(logged), rel=1e-3)
    assert float(error) < 0.7
    assert not torch.allclose(raw, x_p)
    again = fit("topk_transcoder(k=3)", source, 24, config, out=tmp_path)
    assert torch.equal(again.model.W_E, saved.W_E)


def test_the_digest_is_that_of_what_is_read(store: Store) -> None:
    def digest(*sites: str | None, normalise: bool = False) -> str:
        return StoreSource(store, *sites, normalise=normalise).digest

    reads = [("layers.1:out", None), ("layers.1.mlp:in", None), ("layers.1.mlp:in", "layers.1.mlp:out")]
    found = [digest(*sites) for sites in reads] + [digest("layers.1:out", None, normalise=True)]
    assert len(set(found)) == 4
    assert digest("layers.1:out", None) == found[0]


def test_labels_give_anchors(store: Store) -> None:
    labels = store.labels
    assert labels is not None
    assert labels.names == ("a", "b", "c")
    first = {int(d): int(t) % 3 for d, t, p in zip(*(c[0 : store.rows] for c in (
        store.documents, store.tokens, store.positions)), strict=True) if p == 0}  # fmt: skip
    assert labels.codes.tolist() == [first[int(d)] for d in store.documents[0 : store.rows]]
    source = StoreSource(store, "layers.1:out")
    x = store.table("layers.1:out").take(torch.arange(store.rows)).double()
    means = torch.stack([x[labels.codes == c].mean(0) for c in range(3)])
    centred = torch.nn.functional.normalize(means - means.mean(0), dim=1)
    torch.testing.assert_close(class_anchors(source, labels).p.T.double(), centred, rtol=1e-4, atol=1e-5)


def _copy(folder: Path, to: Path) -> Path:
    for path in folder.rglob("*"):
        if path.is_file():
            target = to / path.relative_to(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return to


def test_altered_files_are_found(folder: Path, tmp_path: Path) -> None:
    made = _copy(folder, tmp_path / "s")
    open_store(made).verify()
    path = made / "shards" / "00001" / "x2.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(CheckpointError, match=r"00001/x2.npy has sha256 .*, the manifest says"):
        open_store(made).verify()
    with pytest.raises(CheckpointError, match=r"00001/x2.npy has sha256 .*, the manifest says"):
        open_store(made).table("layers.2.mlp:in").take(torch.tensor([30]))
    open_store(made).table("layers.2.mlp:in").take(torch.tensor([3]))  # the shard before it is whole
    open_store(made, checked=False).table("layers.2.mlp:in").take(torch.tensor([30]))
    os.truncate(path, 1 << 40)  # holes, which would be hashed for an hour
    with pytest.raises(CheckpointError, match=r"00001/x2\.npy has 1,099,511,627,776 bytes, at most"):
        open_store(made).table("layers.2.mlp:in").take(torch.tensor([30]))
    path.write_bytes(whole[:-8])
    with pytest.raises(CheckpointError, match=r"x2.npy cannot be read"):
        open_store(made, checked=False).table("layers.2.mlp:in").take(torch.tensor([30]))
    path.unlink()
    with pytest.raises(CheckpointError, match=r"x2.npy is missing"):
        open_store(made)
    other = made / "shards" / "00000" / "x0.npy"
    np.save(other, np.zeros((3, 6), np.float32))
    path.write_bytes(whole)
    with pytest.raises(CheckpointError, match=r"has shape \(3, 6\), its manifest says \(20, 6\)"):
        open_store(made, checked=False).table("layers.0.mlp:in").take(torch.tensor([0]))


MANIFESTS: dict[str, tuple[object, str]] = {
    "complete": (3, "complete is 3, not true or false"),
    "dtype": ("float8", "dtype is 'float8', not one of"),
    "labels": ([1], r"labels\[0\] is 1, not a text"),
    "sites": ([], "sites is empty"),
    "shards": ([{"rows": 20, "sha256": {}}], r"shards\[0\] does not fit"),
    "vocabulary": ("x", "vocabulary is 'x', not a sha256 or null"),
    "shard_rows": (0, "shard_rows is 0, not 1 or more"),
    "about": ([], r"about is \[\], not an object"),
    "sha257": ("0", "sha257 is '0', not a field that is known"),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_a_manifest_is_checked_field_by_field(name: str, folder: Path, tmp_path: Path) -> None:
    value, says = MANIFESTS[name]
    path = _copy(folder, tmp_path / "s") / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"rows_wanted": 7}))
    with pytest.raises(CheckpointError, match=r"manifest\.json was altered since it was written"):
        open_store(path.parent)
    manifest.pop("sha256")  # as older versions wrote it
    path.write_text(json.dumps(manifest | {name: value}))
    with pytest.raises(CheckpointError, match=rf"manifest.json: {says}"):
        open_store(path.parent)
    if name in manifest:
        path.write_text(json.dumps({key: value for key, value in manifest.items() if key != name}))
        with pytest.raises(CheckpointError, match=f"manifest.json: {name} is missing"):
            open_store(path.parent)


def test_a_full_disk_is_an_error_before_a_shard_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is reserved first, so that no write into a mapped file can end the process; whole shards stay."""
    layer, begun = torch.nn.Sequential(torch.nn.Linear(4, 4)).eval(), 0

    def reserve(*_: object) -> None:
        nonlocal begun
        begun += 1
        if begun > 4:  # four files of the first shard
            raise OSError(errno.ENOSPC, "No space left on device")

    rows = [torch.randn(6, 4, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", reserve)
        with pytest.raises(OutputError, match="No space left on device"):
            harvest(layer, "0:out", rows, tmp_path / "s", shard_rows=8)
    assert open_store(tmp_path / "s", partial=True).rows == 8
    assert sorted(path.name for path in (tmp_path / "s").iterdir()) == ["manifest.json", "shards"]
    store = harvest(layer, "0:out", rows, tmp_path / "s", shard_rows=8)
    whole = harvest(layer, "0:out", rows, tmp_path / "whole", shard_rows=8)
    assert store.manifest == whole.manifest


def test_what_is_no_store(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"has no manifest.json; give the folder"):
        open_store(tmp_path)
    made = _copy(folder, tmp_path / "s")
    manifest = json.loads((made / "manifest.json").read_text())
    manifest.pop("sha256")  # as older versions wrote it
    for change, says in (
        ({"complete": False}, "is not finished .* call the same harvest again"),
        ({"format": "monosem.store/9"}, "has format 'monosem.store/9', this version reads"),
        ({"shards": []}, "has no whole shard yet"),
    ):
        (made / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(CheckpointError, match=says):
            open_store(made)
    (made / "manifest.json").write_text(json.dumps(manifest | {"complete": False}))
    assert open_store(made, partial=True).rows > 0
