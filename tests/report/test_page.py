"""The page: its structure, that it needs nothing else, that it repeats, and odd folders."""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from monosem.base.errors import CheckpointError, DataError
from monosem.report.page import page, write_report
from tests.report.samples import sample, samples, written

VOID = {"meta", "br", "img", "input", "link", "hr"}


class Outline(HTMLParser):
    """What a page is made of, and whether every element is closed where it should be."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.count: dict[str, int] = {}
        self.words: dict[str, list[str]] = {}
        self.stack: list[str] = []
        self.wrong: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.count[tag] = self.count.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if not self.stack or self.stack.pop() != tag:
            self.wrong.append(tag)

    def handle_data(self, data: str) -> None:
        if self.stack:
            self.words.setdefault(self.stack[-1], []).append(data.strip())


@pytest.fixture(scope="module")
def text() -> str:
    return page(samples())


def test_structure(text: str) -> None:
    outline = Outline(text)
    assert outline.wrong == []
    assert outline.stack == []
    assert outline.count["table"] == 3  # scores, runs, environment
    assert outline.count["svg"] == 3  # recovery, L0-FVU, similarity; the script draws the curves
    assert outline.count["canvas"] == 2
    assert outline.words["h2"] == [
        "lrb/mini (version 1)",
        "In three dimensions",
        "Words",
        "Environment",
        "Cite",
    ]
    buttons = [word for word in outline.words["button"] if word]
    assert [b for b in buttons if b in ("M_GT against τ", "L0 and FVU", "Training", "Similarity")] == [
        "M_GT against τ",
        "L0 and FVU",
        "Training",
        "Similarity",
    ]


def test_the_table_holds_the_numbers(text: str) -> None:
    rows = re.findall(r"<tr>(.*?)</tr>", text, re.DOTALL)
    plain = next(row for row in rows if "<b>topk</b>" in row and ">plain<" in row)
    anchored = next(row for row in rows if "<b>topk</b>" in row and ">anchored<" in row)
    assert "0.450 ± 0.124" in plain
    assert "0.650 ± 0.124" in anchored
    assert 'class="better">+0.200 ± 0.000' in anchored
    assert "random directions, sae" in text
    assert "anchors alone, crosscoder" in text
    assert "oracle, sae" in text
    assert "the interval lies above 0 in 3 of 3 methods, below 0 in 0" in text


def test_it_needs_nothing_else(text: str) -> None:
    addresses = set(re.findall(r"https?://[^\s\"'<>)]+", text))
    namespaces = {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert addresses <= namespaces | {"https://github.com/leeoniya/uPlot"}  # named, not loaded
    assert re.findall(r"\b(?:src|href)=\"(?!#|data:)[^\"]*\"", text) == []
    assert "@import" not in text
    assert "$" not in re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)


def test_the_policy_names_the_one_script(text: str) -> None:
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    known = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.findall(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">', text)
    assert policy[0].startswith(f"default-src 'none'; script-src 'sha256-{known}'; ")


def test_curves_are_the_means_of_the_records(text: str) -> None:
    tau, training = (json.loads(part) for part in re.findall(r'json">(\[.*?\])</script>', text))
    assert [chart["title"] for chart in training] == ["FVU", "total loss", "L0", "share of dead latents"]
    line = {line["label"]: line for line in tau[0]["lines"]}
    assert line["topk plain"]["values"][95] == pytest.approx(0.45 + 0.025)
    assert line["topk plain"]["dash"]
    assert not line["topk anchored"]["dash"]
    chance = line["random directions, sae"]["values"]
    assert [i for i, value in enumerate(chance) if value is not None] == [80, 90, 95, 99]
    assert chance[95] == 0.125
    assert training[0]["at"] == [1, 100]
    assert training[0]["lines"][0]["values"] == [1.0, 0.1]


def test_an_fvu_above_one_is_flagged_with_its_reason(text: str) -> None:
    assert "FVU above 1</b>" not in text
    record = sample("batch_topk(k=4)")
    record["metrics"]["fvu"]["value"] = 1.5
    flagged = page([record])
    assert '<td data-value="1.5" class="high">1.500</td>' in flagged
    assert "batch_topk plain 1.500 (at the end of training 0.100, 4.0 latents active)" in flagged
    assert "on which 1.2 features are present" in flagged


def test_it_cites_what_it_shows(text: str) -> None:
    for key in ("tang2025", "gao2024", "bricken2023", "lindsey2024"):
        assert f"{{{key}," in text
    assert "{bussmann2024," not in text


def test_words_from_records_cannot_be_markup(text: str) -> None:
    assert "a &lt;processor&gt;" in text
    assert "a <processor>" not in text


def test_the_same_records_give_the_same_page(text: str) -> None:
    assert page(samples()) == text


def test_one_seed_has_no_interval() -> None:
    text = page(samples(1))
    assert "one world, so without intervals" in text
    assert Outline(text).wrong == []
    assert "±" not in re.search(r"<tbody>(.*?)</tbody>", text, re.DOTALL)[1]  # type: ignore[index]


def test_only_plain_runs_without_anything_beside_them() -> None:
    record = sample(beside=False)
    record["similarity"] = None
    text = page([record])
    assert Outline(text).wrong == []
    assert "Anchoring" not in re.search(r"<section id=\"s0\">(.*?)</section>", text, re.DOTALL)[1]  # type: ignore[index]


def test_only_anchored_runs() -> None:
    assert Outline(page([sample(anchors=12)])).wrong == []


def test_each_task_has_its_section() -> None:
    outline = Outline(page([sample(), sample(name="lrb/nano")]))
    assert outline.words["h2"][:2] == ["lrb/mini (version 1)", "lrb/nano (version 1)"]


def test_a_folder_becomes_a_file(tmp_path: Path) -> None:
    folder = written(tmp_path / "runs", samples(1))
    path = write_report(folder, tmp_path / "report.html")
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    folder = written(tmp_path, samples(1))
    path = sorted(folder.glob("*.record.json"))[0]
    path.write_text(path.read_text()[:-100])
    with pytest.raises(CheckpointError, match=re.escape(path.name)):
        write_report(folder, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="monosem bench"):
        write_report(tmp_path, tmp_path / "report.html")
    with pytest.raises(DataError, match="neither a folder of records"):
        write_report(tmp_path / "absent", tmp_path / "report.html")
