"""The page in a real browser: its script runs to the end, without errors, and what it should do happens."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from monosem.report.page import page
from tests.report.samples import samples

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")

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
    from html import unescape
    from json import loads

    path = tmp_path / "report.html"
    path.write_text(page(samples()).replace("</body>", PROBE), encoding="utf-8")
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={tmp_path / 'profile'}",
        f"--window-size={width},900",
        "--virtual-time-budget=4000",
        "--dump-dom",
        path.as_uri(),
    ]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    assert 'data-ready="yes"' in dom
    assert '<div id="script-errors" hidden=""></div>' in dom
    found = re.search(r'data-probe="([^"]*)"', dom)
    assert found
    probe = loads(unescape(found[1]))
    assert probe["open"] == ["none", "block", "none", "none"]
    assert probe["sort"] == "descending"
    assert probe["first"].startswith("topk_crosscoder anchored")
    assert min(probe["drawn"]) > 500
    assert probe["wide"]
    assert "features recovered" in dom
