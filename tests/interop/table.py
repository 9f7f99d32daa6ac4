"""The table of docs/interop.md: which released package made or read which file, from the tests that saw it.

python tests/interop/table.py          run the proofs (needs `make peers`), record what held, write the table
python tests/interop/table.py --write  write the table from the record
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from monosem.interop import FORMATS

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from monosem.report.markdown import fill, table  # noqa: E402
from tests.interop.rows import ROWS, Row  # noqa: E402

PAGE, RECORD = ROOT / "docs" / "interop.md", ROOT / "tests" / "interop" / "verified.json"
NOTES = "from format notes"


def proved(verified: dict[str, str]) -> str:
    """Markdown: one line per format, direction and tested version, with the architectures that this version saw."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in ROWS:
        version = verified.get(str(row), NOTES)
        title = FORMATS[row.format].title + (" before 6" if row.case.startswith("old-") else "")
        groups.setdefault((title, row.direction, version), []).append(_short(row))
    rows = [("format", "direction", "architectures and settings", "tested with")]
    rows += [(f, d, "; ".join(cases), version) for (f, d, version), cases in groups.items()]
    return table(rows)


def _short(row: Row) -> str:
    name = row.architecture
    return name.replace("_", " ") if row.which != "notes" else name.partition(", ")[2].replace("_", " ") or "SAE"


def _run() -> dict[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        record = Path(folder) / "record.jsonl"
        environment = {**os.environ, "MONOSEM_INTEROP_RECORD": str(record), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-m", "slow", "tests/interop/test_peers.py"]
        code = subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode
        lines = record.read_text().splitlines() if record.is_file() else []
    if code not in (0, 1):
        sys.exit(code)
    return dict(sorted(json.loads(line) for line in lines))


def main() -> None:
    """Record and write."""
    parser = argparse.ArgumentParser(description="Write the table of docs/interop.md.")
    parser.add_argument("--write", action="store_true", help="from the record, without running the proofs")
    if not parser.parse_args().write:
        RECORD.write_text(json.dumps(_run(), indent=1) + "\n")
    verified = json.loads(RECORD.read_text())
    fill(PAGE, {"proved": proved(verified)})
    print(f"{len(verified)} of {len(ROWS)} rows verified by a released package")


if __name__ == "__main__":
    main()
