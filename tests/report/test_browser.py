"""The page in a real browser: its script runs to the end, without errors, and what it should do happens."""

from pathlib import Path

import pytest

from monosem.report.page import page
from tests.report.browser import BROWSER, evaluate
from tests.report.samples import sample, samples

STEPS = """
const all = (selector) => [...document.querySelectorAll(selector)];
const frame = () => new Promise((done) => setTimeout(done, 0));
const settled = async () => {
  for (let i = 0; i < 5; i++) { await new Promise(requestAnimationFrame); await frame(); }
};
const tabs = () => all(".tabs > .bar > button");
const painted = (canvas) => {
  const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
  return data.filter((value, i) => i % 4 === 3 && value > 0).length;
};
await settled();
const first = document.querySelector(".curves");
const probe = { tau: first.dataset.drawn, curves: painted(first.querySelector("canvas")) };
const legend = all(".curves")[0].querySelectorAll(".u-legend tr");
probe.lines = [...legend].map((row) => row.querySelector(".u-label").textContent);
legend[1].querySelector("th").click();
await settled();
probe.hidden = legend[1].className.includes("u-off");
const choice = document.querySelector(".curves select");
choice.selectedIndex = 2;
choice.dispatchEvent(new Event("change"));
await settled();
probe.other = document.querySelector(".curves").dataset.drawn;
probe.still = document.querySelector(".curves .u-legend").querySelectorAll("tr")[1].className.includes("u-off");
tabs()[2].click();
await settled();
probe.training = all(".curves")[1].dataset.drawn;
tabs()[1].click();
probe.open = all(".tabs > .pane").map((pane) => getComputedStyle(pane).display);
const heads = all("table.scores thead th");
heads[2].click();
probe.first = document.querySelector("table.scores tbody tr").textContent;
heads[2].dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
probe.sort = heads[2].getAttribute("aria-sort");
probe.world = ["world-plain", "world-anchored"].map((name) => painted(document.getElementById(name)));
probe.wide = document.documentElement.scrollWidth <= window.innerWidth;
probe.caption = document.querySelector(".world figcaption").textContent;
probe.ready = document.documentElement.dataset.ready;
probe.errors = document.getElementById("script-errors").textContent;
return probe;
"""


@pytest.mark.skipif(not BROWSER, reason="no chromium or chrome is installed")
@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_works(width: int, tmp_path: Path) -> None:
    probe = evaluate(page(samples()), STEPS, tmp_path, width)
    assert (probe["ready"], probe["errors"]) == ("yes", "")
    assert probe["tau"] == "decoder columns, |cos| (headline)"
    assert probe["curves"] > 1000
    assert probe["lines"][:3] == ["τ", "relu_l1 plain", "relu_l1 anchored"]
    assert {"random directions, sae", "anchors alone, crosscoder"} <= set(probe["lines"])
    assert probe["hidden"]
    assert probe["still"]  # another similarity keeps what was hidden
    assert probe["other"] == "encoder rows, inner product (the paper's)"
    assert probe["training"] == "FVU"
    assert probe["open"] == ["none", "block", "none", "none"]
    assert probe["sort"] == "ascending"
    assert probe["first"].startswith("topk_crosscoder anchored")
    assert min(probe["world"]) > 500
    assert probe["wide"]
    assert "features recovered" in probe["caption"]


@pytest.mark.skipif(not BROWSER, reason="no chromium or chrome is installed")
def test_text_of_records_runs_nothing(tmp_path: Path) -> None:
    record = sample("topk(k=4)")
    record["env"]["cpu"] = record["method"]["name"] = "</script><img src=x onerror=document.title='ran'>"
    more = "<script>document.body.dataset.ran = 'yes'</script></body>"
    text = page([record]).replace("</body>", more)
    steps = "return [document.title, document.body.dataset.ran ?? 'no', document.querySelectorAll('img').length];"
    assert evaluate(text, steps, tmp_path, quiet=False) == ["monosem: recovery of known features", "no", 0]
