"""Harvested rows against calling the parts of the network; what is refused; provenance."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from monosem.base.errors import ArgumentError, CheckpointError, DataError, ShapeError
from monosem.data.batches import Batch, TokenFilter
from monosem.data.store import open_store
from monosem.networks.harvest import harvest
from tests.networks.networks import Tiny, masked_batches, plain_rows

SITES = "layers.1.mlp:in,out; layers.2:out"


def _kept(keep: Callable[[int, int], bool]) -> tuple[list[Tensor], dict[str, list[int]]]:
    """Rows of SITES and their columns, one token after the other; keep(token, place in the window)."""
    model, rows, columns = Tiny(), [], {"token": [], "document": [], "position": []}  # type: ignore[var-annotated]
    first = 0
    for batch in masked_batches():
        sites = plain_rows(model, batch)
        for b in range(batch["input_ids"].shape[0]):
            for t in range(int(batch["attention_mask"][b].sum())):
                if keep(int(batch["input_ids"][b, t]), t):
                    rows.append(
                        torch.stack([sites[s][b, t] for s in ("layers.1.mlp:in", "layers.1.mlp:out", "layers.2:out")])
                    )
                    for name, value in zip(columns, (int(batch["input_ids"][b, t]), first + b, t), strict=True):
                        columns[name].append(value)
        first += batch["input_ids"].shape[0]
    return [torch.stack(rows)[:, i] for i in range(3)], columns


@pytest.mark.parametrize(
    ("keep", "by_hand"),
    [
        (TokenFilter(), lambda token, place: True),
        (TokenFilter((3, 17, 20), 1, 4), lambda token, place: token not in (3, 17, 20) and 1 <= place < 4),
    ],
)
@pytest.mark.parametrize("shard_rows", [7, 1000])
def test_rows_and_their_provenance(
    keep: TokenFilter, by_hand: Callable[[int, int], bool], shard_rows: int, tmp_path: Path
) -> None:
    store = harvest(Tiny(), SITES, masked_batches(), tmp_path, keep=keep, shard_rows=shard_rows)
    wanted, columns = _kept(by_hand)
    assert store.rows == len(wanted[0])
    assert store.sites == ("layers.1.mlp:in", "layers.1.mlp:out", "layers.2:out")
    for site, rows in zip(store.sites, wanted, strict=True):
        torch.testing.assert_close(store.table(site).take(torch.arange(store.rows)), rows)
    held = {"token": store.tokens, "document": store.documents, "position": store.positions}
    assert {name: values[0 : store.rows].tolist() for name, values in held.items()} == columns
    assert len(store.manifest["shards"]) == -(-store.rows // shard_rows)
    store.verify()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_narrow_types_round_once(dtype: str, tmp_path: Path) -> None:
    wanted, _ = _kept(lambda token, place: True)
    store = harvest(Tiny(), SITES, masked_batches(), tmp_path, dtype=dtype, shard_rows=10)
    found = store.table("layers.2:out").take(torch.arange(store.rows))
    assert found.dtype == torch.float32
    with torch.no_grad():
        own = [plain_rows(Tiny(), batch)["layers.2:out"][batch["attention_mask"].bool()] for batch in masked_batches()]
    assert torch.equal(found, torch.cat(own).to(getattr(torch, dtype)).float())
    torch.testing.assert_close(found, wanted[2], rtol=2**-8, atol=1e-3)


def test_a_number_too_large_for_its_type_is_refused(tmp_path: Path) -> None:
    model = Tiny()
    with torch.no_grad():
        model.embed.weight[5] = 1e6
    batches = [torch.tensor([[1, 5]])]
    with pytest.raises(DataError, match=r"layers.0:in gives 1e\+06, too large for torch.float16; use float32"):
        harvest(model, "layers.0:in", batches, tmp_path / "narrow", dtype="float16")
    assert harvest(model, "layers.0:in", batches, tmp_path / "wide").rows == 2
    with torch.no_grad():
        model.embed.weight[5] = torch.nan
    with pytest.raises(DataError, match=r"layers.0:in gives NaN or infinity; check the model"):
        harvest(model, "layers.0:in", batches, tmp_path / "nan")


def test_two_models_read_the_same_batches(tmp_path: Path) -> None:
    models = {"base": Tiny(), "tuned": Tiny(seed=1)}
    store = harvest(models, "layers.0:out", masked_batches(), tmp_path)
    assert store.sites == ("base/layers.0:out", "tuned/layers.0:out")
    for name, model in models.items():
        own = [plain_rows(model, batch)["layers.0:out"][batch["attention_mask"].bool()] for batch in masked_batches()]
        torch.testing.assert_close(store.table(f"{name}/layers.0:out").take(torch.arange(store.rows)), torch.cat(own))


def test_pooled_documents(tmp_path: Path) -> None:
    keep = TokenFilter(first=1)
    own = {"mean": [], "first": [], "last": []}  # type: ignore[var-annotated]
    for batch in masked_batches():
        for x, mask in zip(plain_rows(Tiny(), batch)["layers.2:out"], batch["attention_mask"], strict=True):
            rows = x[1 : int(mask.sum())]
            for pool, row in (("mean", rows.mean(0)), ("first", rows[0]), ("last", rows[-1])):
                own[pool].append(row)
    for pool, wanted in own.items():
        store = harvest(Tiny(), "layers.2:out", masked_batches(), tmp_path / pool, keep=keep, pool=pool)  # type: ignore[arg-type]
        torch.testing.assert_close(store.table("layers.2:out").take(torch.arange(store.rows)), torch.stack(wanted))
        assert store.documents[0 : store.rows].tolist() == list(range(len(wanted)))
        assert set(store.tokens[0 : store.rows].tolist()) == {-1}


def test_any_module_on_rows_of_numbers_with_labels(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 2)).eval()
    batches = [
        Batch(torch.randn(3, 4), torch.arange(3), label=torch.tensor([1, 0, 1])),
        Batch(torch.randn(2, 4), torch.arange(3, 5), label=torch.tensor([0, 0])),
    ]
    store = harvest(net, "0:out", batches, tmp_path, labels=["cat", "dog"], shard_rows=2)
    whole = torch.cat([batch.inputs for batch in batches])
    torch.testing.assert_close(store.table("0:out").take(torch.arange(5)), net[0](whole).detach())
    assert store.labels is not None
    assert (store.labels.codes.tolist(), store.labels.names) == ([1, 0, 1, 0, 0], ("cat", "dog"))
    with pytest.raises(DataError, match="give both or neither"):
        harvest(net, "0:out", [torch.randn(2, 4)], tmp_path / "none", labels=["cat"])


def test_only_so_many_rows(tmp_path: Path) -> None:
    whole = harvest(Tiny(), SITES, masked_batches(), tmp_path / "whole")
    part = harvest(Tiny(), SITES, masked_batches(), tmp_path / "part", rows=23, shard_rows=10)
    assert part.rows == 23
    first = torch.arange(23)
    assert torch.equal(part.table("layers.2:out").take(first), whole.table("layers.2:out").take(first))
    again = harvest(Tiny(), SITES, masked_batches(), tmp_path / "part", rows=23, shard_rows=10)
    assert again.manifest == part.manifest


def _change(**options: Any) -> dict[str, Any]:
    return {"module": Tiny(), "sites": SITES, "batches": masked_batches(), "shard_rows": 10} | options


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_change(dtype="float16"), "holds another harvest: dtype is float32 there, float16 now"),
        (_change(module=Tiny(seed=1)), "holds another harvest: models is"),
        (_change(sites="layers.2:out"), "holds another harvest: sites is"),
        (_change(batches=masked_batches(seed=1)), "row 0 of .* has token .*, the batches give"),
        (_change(batches=masked_batches(3)), "holds .* rows, the batches give"),
        (_change(keep=TokenFilter(first=1)), "row 0 of .* has token"),
    ],
)
def test_another_harvest_in_the_same_folder_is_refused(change: dict[str, Any], says: str, tmp_path: Path) -> None:
    before = harvest(**_change(), out=tmp_path).manifest
    with pytest.raises(CheckpointError, match=says):
        harvest(**change, out=tmp_path)
    assert open_store(tmp_path).manifest == before


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"dtype": "int4"}, ArgumentError, "dtype='int4'; known: float32, float16, bfloat16, int8"),
        ({"pool": "max"}, ArgumentError, "pool='max'; known"),
        ({"batches": []}, DataError, "no batches to harvest"),
        ({"batches": [{"input_ids": torch.zeros(0, 3, dtype=torch.int64)}]}, DataError, "with rows, not"),
        ({"batches": ["words"]}, DataError, "a batch is a tensor"),
        ({"keep": TokenFilter(first=99)}, DataError, "loosen the token filter"),
        ({"rows": 0}, ArgumentError, "rows=0"),
        ({"shard_rows": 0}, ArgumentError, "shard_rows=0"),
        ({"module": Tiny().train()}, ArgumentError, r"call model.eval\(\) first"),
        ({"module": {}}, ArgumentError, "no model is given"),
    ],
)
@pytest.mark.usefixtures("as_in_production")
def test_wrong_input(options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path) -> None:
    with pytest.raises(error, match=says):
        harvest(**_change(**options), out=tmp_path)


def test_sites_of_other_shapes_are_refused(tmp_path: Path) -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.flat = nn.Conv3d(1, 2, 3), nn.Flatten()

        def forward(self, x: Tensor) -> Tensor:
            flat: Tensor = self.flat(self.conv(x))
            return flat

    image, pixels = Image().eval(), [torch.randn(2, 1, 3, 5, 5)]
    with pytest.raises(ShapeError, match=r"conv:out gives torch.float32 of shape \(2, 2, 1, 3, 3\) for 2 documents"):
        harvest(image, "conv:out", pixels, tmp_path / "a")
    assert harvest(image, "flat:out", pixels, tmp_path / "b").widths == (18,)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("years of work")
    with pytest.raises(ArgumentError, match=r"full holds other files \(thesis.tex\); give an empty folder"):
        harvest(image, "flat:out", pixels, tmp_path / "full")


def test_progress_is_told(tmp_path: Path) -> None:
    told: list[tuple[int, int]] = []
    store = harvest(Tiny(), SITES, masked_batches(), tmp_path, progress=lambda *now: told.append(now))
    assert len(told) == 5
    assert told[-1] == (store.rows, sum(int(batch["attention_mask"].sum()) for batch in masked_batches()))
    assert np.all(np.diff([rows for rows, _ in told]) > 0)


def test_a_convolution_has_a_row_per_place(tmp_path: Path) -> None:
    """[batch, channels, height, width] row by row of the picture, from a DataLoader of (pictures, classes)."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)).eval()
    pictures = torch.randn(6, 3, 7, 8)
    net(pictures)
    loader = DataLoader(TensorDataset(pictures, torch.arange(6) % 2), batch_size=4)
    store = harvest(net, "1:out", loader, tmp_path, labels=["even", "odd"])
    with torch.no_grad():
        wanted = net[1](net[0](pictures))
    assert (store.rows, store.widths) == (6 * 5 * 6, (5,))
    rows = store.table("1:out").take(torch.arange(store.rows))
    for row in (0, 7, 31, 100, 179):
        picture, place = divmod(row, 30)
        assert torch.equal(rows[row], wanted[picture, :, place // 6, place % 6])
        assert int(store.documents[row]) == picture
        assert int(store.positions[row]) == place
    assert store.labels is not None
    assert store.labels.codes.tolist() == [picture % 2 for picture in range(6) for _ in range(30)]
