"""The page's data are what was collected, hostile text stays text, and its size is bounded."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from monosem import Anchors, TensorSource, method
from monosem.base.errors import ArgumentError, ShapeError
from monosem.inspect import page as inspect_data
from monosem.inspect.collect import Inspection, collect
from monosem.inspect.options import Options
from monosem.inspect.page import anchored, inspect_page, pack, page_data, quantised, small, write_inspect_page
from monosem.inspect.rows import Rows
from monosem.networks.logits import logit_effect
from tests.inspect.samples import EVIL, N_Q, model, token_rows, unpack


def test_packing_keeps_every_bit() -> None:
    generator = np.random.default_rng(0)
    arrays = {
        "a": generator.integers(0, 2**32, 100, dtype=np.uint32),
        "b": generator.standard_normal(37).astype(np.float32),
        "c": np.array([-32767, 0, 32767], dtype=np.int16),
        "d": np.zeros(0, dtype=np.uint8),
        "e": generator.integers(0, 2, (5, 6), dtype=np.uint8),
    }
    header, back = unpack(pack({"text": EVIL}, arrays))
    assert header == {"text": EVIL}
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array.reshape(-1))


def test_small_types() -> None:
    assert [small(np.array([top])).dtype.itemsize for top in (255, 256, 65535, 65536)] == [1, 2, 2, 4]
    assert quantised(np.array([1.0, -2.0, 0.0]), np.array([2.0, 2.0, 0.0])).tolist() == [16384, -32767, 0]


@pytest.fixture(scope="module")
def packed() -> tuple[Inspection, Rows, dict[str, object], dict[str, np.ndarray]]:
    rows = token_rows()
    found = collect(model(), rows, Options(top=5, sample=2, before=6, after=3))
    return found, rows, *unpack(page_data(found, rows, {"title": "t"}))


def test_contexts_come_back(
    packed: tuple[Inspection, Rows, dict[str, object], dict[str, np.ndarray]],
) -> None:
    """Unpacked as the page's script does it: rows, tokens and values of every context."""
    found, rows, header, arrays = packed
    vocabulary = header["vocabulary"]
    assert isinstance(vocabulary, list)
    assert rows.token is not None
    assert rows.decode is not None
    for name, keep in (("top", found.top), ("sample", found.sample), ("band", found.bands.by_latent())):
        np.testing.assert_array_equal(arrays[f"{name}.count"], keep.count)
        context = cell = 0
        for j in range(N_Q):
            for place in np.flatnonzero(keep.row[j] >= 0):
                start, length, peak, active = (
                    int(arrays[f"{name}.{field}"][context]) for field in ("start", "length", "peak", "active")
                )
                first = int(keep.row[j, place]) - int(keep.left[j, place])
                assert arrays["number"][start : start + length].tolist() == list(range(first, first + length))
                assert start + peak == np.searchsorted(arrays["number"], keep.row[j, place])
                words = [vocabulary[t] for t in arrays["token"][start : start + length]]
                assert words == rows.decode(rows.token[first : first + length].tolist())
                values = np.zeros(length)
                at = arrays[f"{name}.at"][cell : cell + active]
                values[at] = arrays[f"{name}.value"][cell : cell + active] / 32767 * found.counts.largest[j]
                shown = keep.window[j, place][6 - peak : 6 - peak + length]
                np.testing.assert_allclose(values, shown, atol=2e-5 * found.counts.largest[j])
                context, cell = context + 1, cell + active
        assert context == arrays[f"{name}.start"].size
        assert cell == arrays[f"{name}.value"].size


def test_more_says_that_the_text_goes_on(
    packed: tuple[Inspection, Rows, dict[str, object], dict[str, np.ndarray]],
) -> None:
    found, rows, _, arrays = packed
    assert rows.document is not None
    context = 0
    for j in range(N_Q):
        for place in range(int(found.top.count[j])):
            row = int(found.top.row[j, place])
            first, last = row - int(found.top.left[j, place]), row + int(found.top.right[j, place])
            before = first > 0 and rows.document[first - 1] == rows.document[row]
            after = last + 1 < rows.count and rows.document[last + 1] == rows.document[row]
            assert arrays["top.more"][context] == before + 2 * after
            context += 1
    assert set(arrays["top.more"].tolist()) == {0, 1, 2, 3}


def test_classes(packed: tuple[Inspection, Rows, dict[str, object], dict[str, np.ndarray]]) -> None:
    found, rows, header, arrays = packed
    assert rows.labels is not None
    assert header["class_places"] == 3
    order, fired = (arrays[name].reshape(N_Q, 3) for name in ("class", "class_fired"))
    for j in range(N_Q):
        np.testing.assert_array_equal(fired[j], np.sort(found.counts.classes[j])[::-1])
        np.testing.assert_array_equal(found.counts.classes[j][order[j]], fired[j])
    np.testing.assert_array_equal(arrays["class_rows"], np.bincount(rows.labels.codes.numpy()))
    np.testing.assert_array_equal(arrays["label"], rows.labels.codes.numpy()[arrays["number"]] + 1)


def test_logit_effects_and_anchors() -> None:
    sdl, rows = model(), token_rows()
    unembedding = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
    effect = logit_effect(sdl, unembedding, top=2)
    held = anchored(sdl, Anchors(torch.eye(6)[:, :2], torch.eye(6)[:, :2]), ("x", EVIL))
    header, arrays = unpack(page_data(collect(sdl, rows), rows, {}, effect, held))
    exact = (unembedding @ sdl.W_D.detach()).numpy()
    order = np.argsort(-exact, axis=0)
    words = np.array(header["vocabulary"])
    assert words[arrays["up"].reshape(N_Q, 2)[5]].tolist() == [rows.decode([int(t)])[0] for t in order[:2, 5]]  # type: ignore[misc]
    values = arrays["up.value"].reshape(N_Q, 2) / 32767 * header["effect"]["scale"]
    np.testing.assert_allclose(values[:, 0], exact.max(0), atol=1e-3)
    assert header["anchored"]["names"] == ["x", EVIL]
    unit = torch.nn.functional.normalize(sdl.W_D.detach(), dim=0)
    assert header["anchored"]["cosine"] == pytest.approx([float(unit[0, 0]), float(unit[1, 1])], abs=1e-4)


def test_images_and_texts_have_a_limit_which_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    from io import BytesIO

    from PIL import Image

    plain = TensorSource(token_rows().source.take(torch.arange(300))[0])
    colours = np.random.default_rng(5).integers(0, 256, (300, 1, 1, 3), dtype=np.uint8)
    rows = Rows(plain, image=lambda row: np.broadcast_to(colours[row], (9, 12, 3)))
    found = collect(model(), rows, Options(top=4, sample=2))
    monkeypatch.setattr(inspect_data, "IMAGES", 30)
    header, arrays = unpack(page_data(found, rows, {}))
    kept = (found.top, found.bands, found.sample)
    wanted = {int(row) for keep in kept for row in keep.row.flat if row >= 0}
    assert header["shown"] == [30, len(wanted)]
    strongest = found.top.row[:, 0][found.top.row[:, 0] >= 0]
    assert (arrays["shown"][np.searchsorted(arrays["number"], strongest)] > 0).all()  # every latent's strongest
    ends = [0, *arrays["image.end"].tolist()]
    for at, place in enumerate(arrays["shown"].tolist()):
        if place:
            picture = Image.open(BytesIO(arrays["image"][ends[place - 1] : ends[place]].tobytes()))
            assert picture.size == (12, 9)
            assert (np.asarray(picture.convert("RGB")) == colours[arrays["number"][at]]).all()

    texts = Rows(plain, texts=[f"{EVIL} {row} " + "x" * row for row in range(300)])
    monkeypatch.setattr(inspect_data, "TEXTS", 40)
    header, arrays = unpack(page_data(collect(model(), texts, Options(top=4)), texts, {}))
    assert len(header["texts"]) == header["shown"][0] == 40
    for at, place in enumerate(arrays["shown"].tolist()):
        if place:
            row = int(arrays["number"][at])
            said = header["texts"][place - 1]
            assert said.removesuffix(" …") == f"{EVIL} {row} {'x' * row}"[: inspect_data.CHARACTERS]


def test_hostile_text_stays_data(tmp_path: Path) -> None:
    page = inspect_page(model(), token_rows(EVIL), title=EVIL, method=EVIL)
    assert page.lower().count("<script") == 2
    assert page.lower().count("</script") == 2
    assert "<img" not in page
    assert "alert(1)" not in re.sub(r"<title>.*?</title>|<h1>.*?</h1>", "", page)
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", page)  # nothing is loaded from anywhere
    assert write_inspect_page(tmp_path / "p.html", page).read_text(encoding="utf-8") == page


def test_the_page_is_the_same_for_the_same_input() -> None:
    assert inspect_page(model(), token_rows()) == inspect_page(model(), token_rows())


def test_a_page_of_many_latents_is_small() -> None:
    """4,000 latents with a dozen contexts each take less than 1.5 MB; latents that never fire take almost nothing."""
    sdl, _ = method("topk(k=32)").build(4_000, (6,), (6,))
    page = inspect_page(sdl, token_rows(count=1_500))
    assert len(page) < 1.5e6
    quiet, _ = method("topk(k=1)").build(16_000, (6,), (6,))
    assert len(inspect_page(quiet, token_rows(count=300))) < 1e6


def test_wrong_input() -> None:
    with pytest.raises(ShapeError, match=r"\(n_r, k\) = \(5, 2\).*\(6, 24\)"):
        anchored(model(), Anchors(torch.eye(5)[:, :2], torch.eye(5)[:, :2]))
    with pytest.raises(ArgumentError, match="1 names for 2 anchors"):
        anchored(model(), Anchors(torch.eye(6)[:, :2], torch.eye(6)[:, :2]), ("x",))
    plain = Rows(TensorSource(torch.randn(50, 6)))
    with pytest.raises(ArgumentError, match="logit effects need decode"):
        page_data(collect(model(), plain), plain, {}, logit_effect(model(), torch.eye(6)))
