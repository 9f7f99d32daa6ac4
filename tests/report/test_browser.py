"""The page in a real browser: its script runs to the end, without errors, and what it should do happens."""

from pathlib import Path

import pytest

from monosem.report.page import page
from tests.report.browser import BROWSER, dom_of, probed
from tests.report.samples import samples

PROBE = """<script>
document.querySelectorAll(".tabs:not(.minor) > .bar > button")[1].click();
document.querySelectorAll("table.scores thead th")[2].click();
const pixels = (name) => {
  const canvas = document.getElementById(name);
  const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
  return data.filter((value, i) => i % 4 === 3 && value > 0).length;
};
document.body.dataset.probe = JSON.stringify({
  open: [...document.querySelectorAll(".tabs:not(.minor) > .pane")].map((p) => getComputedStyle(p).display),
  first: document.querySelector("table.scores tbody tr").textContent,
  sort: document.querySelectorAll("table.scores thead th")[2].getAttribute("aria-sort"),
  drawn: [pixels("world-plain"), pixels("world-anchored")],
  wide: document.documentElement.scrollWidth <= window.innerWidth,
});
</script></body>"""


@pytest.mark.skipif(not BROWSER, reason="no chromium or chrome is installed")
@pytest.mark.parametrize("width", [1400, 420])
def test_the_page_works(width: int, tmp_path: Path) -> None:
    dom = dom_of(page(samples()).replace("</body>", PROBE), tmp_path, width)
    assert 'data-ready="yes"' in dom
    assert '<div id="script-errors" hidden=""></div>' in dom
    probe = probed(dom)
    assert probe["open"] == ["none", "block", "none", "none"]
    assert probe["sort"] == "descending"
    assert probe["first"].startswith("topk_crosscoder anchored")
    assert min(probe["drawn"]) > 500
    assert probe["wide"]
    assert "features recovered" in dom
