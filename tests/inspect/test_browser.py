"""The page of latents in a real browser: search, sort, scroll, open, keyboard; many latents; hostile text."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from monosem import Anchors, TensorSource
from monosem.base.errors import DataError
from monosem.core.model import SDL
from monosem.inspect.collect import collect
from monosem.inspect.explain import keep_exported, load_labels
from monosem.inspect.options import Options
from monosem.inspect.page import inspect_page
from monosem.inspect.rows import Rows
from monosem.networks.logits import logit_effect
from tests.inspect.samples import EVIL, N_Q, model, token_rows
from tests.report.browser import BROWSER, evaluate

pytestmark = pytest.mark.skipif(not BROWSER, reason="no chromium or chrome is installed")

TOOLS = """
const $ = (selector) => document.querySelector(selector);
const all = (selector) => [...document.querySelectorAll(selector)];
const places = () => all("#view .row").sort((a, b) => a.ariaRowIndex - b.ariaRowIndex);
const numbers = () => places().map((row) => Number(row.id.slice(4)));
const go = (j) => { location.hash = `#latent-${j}`; window.dispatchEvent(new Event("hashchange")); };
const type = (id, text) => { const box = $(id); box.value = text; box.dispatchEvent(new Event("input")); };
const press = (key, target = $("#view")) =>
  target.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true }));
const heading = (name) => all("#head button").find((button) => button.textContent === name);
const opened = () => $("#detail h2").firstChild.textContent;
const frame = () => new Promise((done) => setTimeout(done, 0));
const settled = async () => { await frame(); await new Promise(requestAnimationFrame); await frame(); };
while (document.documentElement.dataset.ready !== "yes" && $("#script-errors")?.hidden !== false) await frame();
const probe = {};
"""
END = """
probe.errors = $("#script-errors").textContent;
return probe;
"""


def _probe(
    page: str, steps: str, folder: Path, width: int = 1400, address: str = "", quiet: bool = True
) -> dict[str, Any]:
    probe: dict[str, Any] = evaluate(page, TOOLS + steps + END, folder, width, address, quiet)
    assert probe.pop("errors") == ""
    return probe


@pytest.fixture(scope="module")
def tokens() -> tuple[str, Any]:
    sdl, rows = model(), token_rows()
    held = Anchors(torch.eye(6)[:, :2], torch.eye(6)[:, :2])
    effect = logit_effect(sdl, torch.randn(11, 6, generator=torch.Generator().manual_seed(0)), top=3)
    options = Options(before=5, after=4)
    page = inspect_page(sdl, rows, options, effect=effect, anchors=held, anchor_names=("north", "south"))
    return page, collect(sdl, rows, options)


USE = """
  probe.first = numbers();
  probe.count = $("#count").textContent;
  heading("max").click();
  probe.max = numbers();
  probe.sort = $("#head [aria-sort]").getAttribute("aria-sort");
  heading("max").click();
  probe.least = numbers();
  heading("latent").click();
  probe.number = numbers();
  $("#field").value = "word";
  type("#search", " DOG ");
  probe.dog = numbers();
  $("#field").value = "number";
  type("#search", "7");
  probe.seven = numbers();
  $("#field").value = "class";
  type("#search", "south");
  probe.south = numbers();
  $("#field").value = "any";
  type("#search", "nothing such");
  probe.none = [numbers(), $("#count").textContent];
  type("#search", "");
  type("#least", "100");
  probe.often = numbers();
  type("#least", "0");
  $("#anchored").click();
  probe.anchored = numbers();
  $("#anchored").click();
  $("#row-3").click();
  probe.opened = [opened(), location.hash, $("#row-3").ariaSelected, $("#view").getAttribute("aria-activedescendant")];
  press("ArrowDown");
  probe.down = opened();
  press("End");
  probe.end = opened();
  press("/", document.body);
  probe.focus = document.activeElement.id;
  press("Escape", $("#search"));
  probe.back = document.activeElement.id;
  $("button.link").click();
  probe.near = opened();
  go(0);
  probe.badge = $("#detail .badge").textContent;
  probe.sections = all("#detail h3").map((heading) => heading.firstChild.textContent);
  const context = $("#detail .context");
  probe.text = context.querySelector(".text").textContent;
  probe.marks = [...context.querySelectorAll("mark")].map((mark) => [mark.textContent, mark.title, mark.className]);
  probe.bars = all("#detail svg rect").map((bar) => bar.textContent);
  probe.promoted = all("#detail .up").map((cell) => cell.textContent);
  probe.classes = all("#detail .meter").length;
  const before = document.documentElement.dataset.theme;
  $("#theme").click();
  probe.theme = [before, document.documentElement.dataset.theme];
  probe.wide = document.documentElement.scrollWidth <= window.innerWidth;
"""


@pytest.mark.parametrize("width", [1400, 420])
def test_search_sort_and_open(width: int, tokens: tuple[str, Any], tmp_path: Path) -> None:
    page, found = tokens
    probe = _probe(page, USE, tmp_path, width)
    fired, largest = found.counts.fired, found.counts.largest

    def same(shown: list[int], key: np.ndarray) -> None:
        """The list begins in the order of a key (a narrow window shows only its beginning)."""
        assert len(shown) >= 8
        assert shown == np.lexsort((np.arange(N_Q), -fired, key))[: len(shown)].tolist()

    same(probe["first"], -fired)
    same(probe["max"], -largest)
    same(probe["least"], largest)
    same(probe["number"], np.arange(N_Q))
    assert probe["count"] == "all 24 latents"
    assert probe["sort"] == "descending"
    assert probe["seven"] == [7]
    assert probe["south"] == [1]
    assert probe["none"] == [[], "0 of 24 latents"]
    assert probe["anchored"] == [0, 1]
    often = np.flatnonzero(fired >= 100).tolist()
    assert probe["often"] == often[: len(probe["often"])]
    assert 0 < len(often) < N_Q
    assert probe["opened"] == ["Latent 3", "#latent-3", "true", "row-3"]
    assert (probe["down"], probe["end"]) == ("Latent 4", "Latent 23")
    assert (probe["focus"], probe["back"]) == ("search", "view")
    assert probe["near"] == f"Latent {found.nearest[23, 0]}"
    assert probe["badge"] == "⚓ north"
    assert probe["sections"] == [
        "Strongest",
        "From strong to weak",
        "Drawn at random",
        "Activations",
        "Next tokens",
        "Classes",
        "Nearest latents",
        "Fires together with",
    ]
    assert probe["theme"] == ["light", "dark"]
    assert probe["wide"]
    assert len(probe["promoted"]) == 3
    assert probe["classes"] == 3
    counts = found.counts.histogram[0][found.counts.histogram[0] > 0].tolist()
    assert [int(re.findall(r": ([\d,]+) row", bar)[0]) for bar in probe["bars"]] == counts


def test_what_the_search_finds_and_the_marks_show(tokens: tuple[str, Any], tmp_path: Path) -> None:
    page, found = tokens
    probe = _probe(page, USE, tmp_path)
    rows = token_rows()
    assert rows.token is not None
    assert rows.decode is not None
    dog = [
        j for j in range(N_Q) for row in [*found.top.row[j], *found.sample.row[j]] if row >= 0 and rows.token[row] == 1
    ]
    assert probe["dog"] == sorted(set(dog))
    row, left, right = (int(part[0, 0]) for part in (found.top.row, found.top.left, found.top.right))
    words = rows.decode(rows.token[row - left : row + right + 1].tolist())
    window = found.top.window[0, 0][5 - left : 5 + right + 1]
    text = "".join(words).replace("\n", "⏎\n")
    assert text in probe["text"]
    active = [(word, value) for word, value in zip(words, window.tolist(), strict=True) if value]
    assert len(probe["marks"]) == len(active)
    for (shown, title, _), (word, value) in zip(probe["marks"], active, strict=True):
        assert shown.replace("⏎\n", "\n").strip() == word.strip()
        assert float(title.rpartition(": ")[2]) == pytest.approx(value, rel=1e-2)
    assert sum("peak" in kind for _, _, kind in probe["marks"]) == 1


OVERVIEW = """
  probe.sections = all("#detail h3").map((heading) => heading.textContent);
  probe.active = all("#detail .charts svg")[0].querySelectorAll("rect").length;
  const canvas = $(".map canvas"), size = [canvas.clientWidth, canvas.clientHeight];
  const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  probe.drawn = pixels.filter((value, i) => i % 4 === 3 && value > 0).length;
  go(3);
  const label = (text) => { $("#label").value = text; $("#label").dispatchEvent(new Event("change")); };
  probe.length = $("#label").value.length;
  label(" money ");
  probe.row = $("#row-3 b.label").textContent;
  $("#field").value = "label";
  type("#search", "mon");
  probe.found = numbers();
  type("#search", "");
  press("l", document.body);
  probe.focus = document.activeElement.id;
  const exports = [], make = URL.createObjectURL;
  URL.createObjectURL = (blob) => { exports.push(blob); return make(blob); };
  HTMLAnchorElement.prototype.click = function () { probe.name = this.download; };
  const button = (name) => all("#detail button").find((one) => one.textContent === name);
  button("Export").click();
  probe.exported = JSON.parse(await exports[0].text());
  const give = async (text) => {
    const files = new DataTransfer(), choice = $("#detail input[type=file]");
    files.items.add(new File([text], "mine.json"));
    choice.files = files.files;
    choice.dispatchEvent(new Event("change"));
    for (let i = 0; i < 20; i++) await frame();
    return $("#detail .labels span").textContent;
  };
  probe.read = await give('{"5": {"label": "dogs", "judge": "me"}}');
  probe.refused = await give('{"99": {"label": "dogs"}}');
  probe.given = $("#row-5 b.label").textContent;
  label("");
  probe.gone = all("#row-3 b.label").length;
  $("#overview").click();
  probe.count = $("#detail .labels span").textContent;
"""


def test_overview_and_labels(tokens: tuple[str, Any], tmp_path: Path) -> None:
    page, found = tokens
    probe = _probe(page, OVERVIEW, tmp_path)
    assert probe["sections"] == ["How often latents fire", "Latents per row", "Decoder directions", "Your text"]
    decades = np.floor(5 * np.log10(found.counts.fired / found.rows) + 1e-9)
    assert probe["active"] == len(np.unique(decades))
    assert probe["drawn"] > 24 * 10
    assert (probe["length"], probe["row"].strip(), probe["found"], probe["focus"]) == (0, "money", [3], "label")
    assert probe["name"] == "labels.json"
    hand = {"latent": 3, "label": "money", "judge": "by hand", "detection": None, "fuzzing": None, "passages": 0}
    assert probe["exported"] == {"3": hand}
    assert probe["read"] == "2 latents labelled, kept by this browser; 1 read from mine.json "
    assert "mine.json was not read: this is no file of labels of latents 0 to 23" in probe["refused"]
    assert (probe["given"].strip(), probe["gone"]) == ("dogs", 0)
    assert probe["count"].startswith("1 latent labelled")


def test_the_most_specific_latents_come_first(tmp_path: Path) -> None:
    """Without classes: bits of the token in which most contexts peak, against its share of all rows."""
    rows = replace(token_rows(), labels=None)
    sdl = model()
    found = collect(sdl, rows)
    assert rows.token is not None
    bits = np.zeros(N_Q)
    for j in range(N_Q):
        kept = [keep.row[j][keep.row[j] >= 0] for keep in (found.top, found.sample, found.bands.by_latent())]
        tokens = rows.token[np.concatenate(kept)]
        counts = np.bincount(tokens, minlength=11)
        q = (rows.token == counts.argmax()).mean()
        p = (counts.max() + q) / (tokens.size + 1)
        bits[j] = p * np.log2(p / q) + (1 - p) * np.log2((1 - p) / (1 - q))
    steps = """
      probe.listed = all("#detail .near button").map((button) => Number(button.textContent));
      probe.bits = all("#detail .near tr").map((row) => row.cells[1].textContent);
      heading("bits").click();
      probe.first = numbers()[0];
    """
    probe = _probe(inspect_page(sdl, rows), steps, tmp_path)
    often = np.flatnonzero(found.counts.fired >= 10)
    np.testing.assert_allclose(bits[probe["listed"]], np.sort(bits[often])[::-1][:12], rtol=1e-6)
    assert probe["bits"] == [f"{bits[j]:.1f} bits" for j in probe["listed"]]
    assert probe["first"] == bits.argmax()


def test_labels_come_back_from_the_file(tmp_path: Path) -> None:
    """What a page exports is taken into the dictionary's folder, and the next page shows it."""
    sdl = model()
    blank = {"detection": None, "fuzzing": None, "passages": 0}
    old = blank | {"latent": 1, "label": "old", "judge": "x", "detection": 0.75}
    new = blank | {"latent": 2, "label": "new </script>", "judge": "by hand"}
    (tmp_path / "labels.json").write_text(json.dumps({"1": old}))
    (tmp_path / "mine.json").write_text(json.dumps({"2": new}))
    assert keep_exported(tmp_path, tmp_path / "mine.json", N_Q) == 1
    page = inspect_page(sdl, token_rows(), labels=load_labels(tmp_path))
    steps = """
      probe.given = [1, 2].map((j) => { go(j); return [$("#label").value, $("#detail .note").textContent]; });
    """
    probe = _probe(page, steps, tmp_path)
    judged = "Words of x, detection 0.75 (chance .50)"
    assert probe["given"] == [["old", judged], ["new </script>", "Written by hand"]]
    (tmp_path / "mine.json").write_text(json.dumps({"24": new | {"latent": 24}}))
    with pytest.raises(DataError, match=r"labels latents \[24\]; the dictionary has 0 to 23"):
        keep_exported(tmp_path, tmp_path / "mine.json", N_Q)


def test_the_policy_stops_what_the_page_does_not_bring(tmp_path: Path) -> None:
    """A script and an image that were added afterwards neither run nor load, and nothing can be sent."""
    more = "<script>document.body.dataset.ran = 'yes'</script></body>"
    steps = """
      probe.ran = document.body.dataset.ran ?? "no";
      probe.sent = await fetch("data:text/plain,x").then(() => "yes", () => "no");
      const image = document.createElement("img");
      image.setAttribute("onclick", "document.body.dataset.ran = 'clicked'");
      image.click();
      probe.clicked = document.body.dataset.ran ?? "no";
    """
    probe = _probe(inspect_page(model(), token_rows()).replace("</body>", more), steps, tmp_path, quiet=False)
    assert (probe["ran"], probe["sent"], probe["clicked"]) == ("no", "no", "no")


MANY = """
  const sizes = [], view = $("#view");
  probe.height = view.scrollHeight;
  for (let i = 0; i <= 40; i++) {
    view.scrollTop = (view.scrollHeight * i) / 40;
    view.dispatchEvent(new Event("scroll"));
    await settled();
    sizes.push(document.getElementsByTagName("*").length);
  }
  probe.most = Math.max(...sizes);
  probe.last = numbers().at(-1);
  probe.index = all("#view .row").map((row) => Number(row.ariaRowIndex)).reduce((a, b) => Math.max(a, b));
  $("#field").value = "number";
  type("#search", "15999");
  await settled();
  probe.found = numbers();
  $("#row-15999").click();
  probe.opened = opened();
  type("#search", "");
  $("#field").value = "any";
  type("#search", "dog");
  await settled();
  probe.dog = $("#count").textContent;
"""


def test_many_latents_take_few_elements(tmp_path: Path) -> None:
    sdl = model("topk(k=32)", 16_000)
    page = inspect_page(sdl, token_rows(count=600), Options(top=4, sample=1))
    probe = _probe(page, MANY, tmp_path)
    assert probe["height"] >= 16_000 * 30
    assert probe["most"] < 1500
    assert probe["index"] == 16_000
    assert probe["found"] == [15_999]
    assert probe["opened"] == "Latent 15999"
    assert re.fullmatch(r"[\d,]+ of 16,000 latents", probe["dog"])


def test_hostile_text_is_shown_and_not_run(tmp_path: Path) -> None:
    rows = token_rows(EVIL)
    sdl = model()
    held = Anchors(torch.eye(6)[:, :1], torch.eye(6)[:, :1])
    effect = logit_effect(sdl, torch.randn(11, 6), top=11)
    page = inspect_page(
        sdl, rows, Options(), title=EVIL, method=EVIL, effect=effect, anchors=held, anchor_names=(EVIL,)
    )
    steps = """
      window.alert = () => { probe.ran = true; };
      probe.title = document.title;
      probe.shown = 0;
      for (let j = 0; j < 24; j++) {
        go(j);
        probe.shown += $("#detail").textContent.split("alert(1)").length - 1;
      }
      probe.elements = all("img, iframe, b.bold, body script:not([id])").length;
    """
    probe = _probe(page, steps, tmp_path)
    assert "ran" not in probe
    assert probe["shown"] > N_Q
    assert probe["elements"] == 1  # the page's own script
    assert probe["title"] == EVIL


@pytest.mark.parametrize("kind", ["images", "texts", "rows"])
def test_other_rows(kind: str, tmp_path: Path) -> None:
    source = TensorSource(token_rows().source.take(torch.arange(200))[0])
    rows = {
        "images": Rows(source, image=lambda row: np.full((8, 8, 3), row, dtype=np.uint8)),
        "texts": Rows(source, texts=[f"text of <b>row</b> {row}." for row in range(200)]),
        "rows": Rows(source),
    }[kind]
    sdl: SDL = model()
    found = collect(sdl, rows, Options(top=6))
    steps = """
      await settled();
      probe.values = all("#detail .value, #detail figcaption").map((cell) => cell.firstChild.textContent);
      probe.images = all("#detail img").map((image) => image.alt);
      await Promise.all(all("#detail img").map((image) => image.decode()));
      probe.widths = all("#detail img").map((image) => image.naturalWidth);
      probe.text = $("#detail").textContent;
    """
    probe = _probe(inspect_page(sdl, rows, Options(top=6)), steps, tmp_path, address="#latent-5")
    bands = found.bands.by_latent().row[5][::-1]
    expected = [int(row) for row in (*found.top.row[5], *bands, *found.sample.row[5]) if row >= 0]
    assert len(probe["values"]) == len(expected)
    assert float(probe["values"][0]) == pytest.approx(float(found.counts.largest[5]), rel=1e-2)
    if kind == "images":
        assert probe["images"] == [f"row {row}" for row in expected]
        assert probe["widths"] == [8] * len(expected)
    elif kind == "texts":
        assert all(f"text of <b>row</b> {row}." in probe["text"] for row in expected)
    else:
        assert all(f"row {row}" in probe["text"] for row in expected)


def test_a_latent_that_never_fires_says_so(tmp_path: Path) -> None:
    sdl = model()
    with torch.no_grad():
        sdl.b_E[3] = -1e9
    page = inspect_page(sdl, token_rows())
    probe = _probe(page, 'probe.text = $("#detail").textContent;', tmp_path, address="#latent-3")
    assert "fires on none of the 1,200 tokens" in probe["text"]
