"""First use as a gate: the wheel in empty environments, and what README and the walkthrough print, in 80 columns.

    .venv/bin/python .ci/first_use.py            # sizes cut down, some minutes: what CI runs
    .venv/bin/python .ci/first_use.py --whole    # every number as printed, an hour or two of one core: make nightly

An environment is a new one that holds the wheel and, of this one, the packages that the wheel's metadata name for the
extras, and what these name in turn: what a package forgets to name is not there. A command fails by its exit status, by
a traceback or a bare exception, by a table that is wider than the terminal or cut, or by ten times its measured time,
which `--record` writes to first_use.json.
"""

import argparse
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import time
import zipfile
from dataclasses import dataclass, field
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
TIMES = Path(__file__).with_suffix(".json")
COLUMNS, LEAST = 80, 120
"""Width of the terminal, and seconds that any command may take."""
PARTS = {
    "cli": "monosem --help && monosem list methods && monosem train --help",
    "bench": 'python -c "from monosem.report import interval; print(interval([1.0, 2.0, 3.0]).text(2))"',
    "report": 'python -c "import torch, monosem as ms; '
    "print(ms.fit('topk(k=2)', torch.randn(64, 8), 16, steps=5).plot())\"",
    "data": 'python -c "import pyarrow as p, pyarrow.parquet as q, monosem as ms; '
    "q.write_table(p.table({'a': [0.0, 1.0, 3.0], 'b': [1.0, 0.0, 5.0]}), 'x.parquet'); "
    "print(ms.fit('topk(k=1)', 'x.parquet', 4, steps=5))\"",
    "hub": 'python -c "from monosem.interop import push_to_hub; import huggingface_hub; print(push_to_hub.__name__)"',
    "gpu": 'TRITON_INTERPRET=1 python -c "from monosem.kernels.gpu.launch import interpreted; assert interpreted()"',
    "cluster": "python -c \"import submitit, monosem as ms; print(submitit.AutoExecutor('log'), ms.fit.__name__)\"",
    "real": "python -c \"from monosem.networks import open_network; print(type(open_network('DIR')[0]).__name__)\"",
}
"""What each extra is for, said in a command."""
SMALLER = {
    "-n 380": "-n 10",
    "-n 40": "-n 2",
    "--steps 1500": "--steps 20",
    "--steps 4500": "--steps 20",
}
"""Numbers of the walkthrough, and smaller ones for CI. Each must occur."""
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07")
_BARE = re.compile(r"^(?:[a-z_]+\.)*[A-Z]\w*(?:Error|Exception|Warning): ", re.MULTILINE)


def faults(output: str, status: int) -> list[str]:
    """What is wrong with a command by what it printed on a terminal of 80 columns, and by its exit status."""
    text = _ESCAPE.sub("", output).replace("\r\n", "\n")
    wrong = [f"exit status {status}"] * (status != 0)
    wrong += ["a traceback"] * ("Traceback (most recent call last)" in text)
    wrong += [f"a bare exception: {match[0]}" for match in _BARE.finditer(text)]
    for line in re.split(r"[\n\r]", text):
        table = re.search(r"[│┃━─]|\S {2,}\S+ {2,}\S", line) and not line.startswith(("next:", "  "))
        if table and len(line.rstrip()) > COLUMNS:
            wrong.append(f"a table of {len(line.rstrip())} columns: {line[:60]}")
        if re.search(r"[│┃].*…\s*[│┃]", line):
            wrong.append(f"a table that is cut: {line[:60]}")
    return wrong


def last(output: str, lines: int = 30) -> str:
    """The last lines of what a command printed, each once."""
    text = re.split(r"[\r\n]+", _ESCAPE.sub("", output).strip())
    return "\n".join(list(dict.fromkeys(text))[-lines:])


def on_a_terminal(command: str, folder: Path, paths: str, limit: float) -> tuple[str, int]:
    """(what it printed, its exit status) of a command of bash; 124 when its time was over."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    cleared = {"PYTHONPATH", "COLUMNS", "VIRTUAL_ENV", "NO_COLOR", "PYTHONHOME"}
    known = {name: value for name, value in os.environ.items() if name not in cleared}
    known |= {"PATH": f"{paths}:{known['PATH']}", "TERM": "xterm", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    process = subprocess.Popen(
        ["bash", "-ec", command],
        cwd=folder,
        env=known,
        stdin=subprocess.DEVNULL,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    parts, end = [], time.monotonic() + limit
    with contextlib.suppress(OSError):  # Linux says so when the other side is closed
        while (left := end - time.monotonic()) > 0 and select.select([master], [], [], left)[0]:
            if not (part := os.read(master, 1 << 16)):
                break
            parts.append(part)
    if time.monotonic() >= end:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    os.close(master)
    late = process.returncode == -signal.SIGKILL
    return b"".join(parts).decode(errors="replace"), 124 if late else process.returncode


@dataclass
class Gate:
    """Commands one after the other, what was wrong with them, and how long they took."""

    work: Path
    known: dict[str, float]
    taken: dict[str, float] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    status: int = 0

    def run(self, name: str, command: str, folder: Path, env: Path, refuses: str = "") -> Path:
        """Run a command and judge it; returns the folder that it leaves the shell in. `refuses`: what it must say."""
        place = self.work / "place"
        limit = max(LEAST, 10 * self.known[name]) if name in self.known else 3600.0
        start = time.monotonic()
        output, status = on_a_terminal(f"{command}\npwd > {place}", folder, str(env / "bin"), limit)
        self.status = status
        seconds = self.taken[name] = round(time.monotonic() - start, 1)
        wrong = faults(output, 0 if refuses and status in (1, 2) else status)
        wrong += [f"does not say {refuses!r}"] * bool(refuses and refuses not in output)
        print(f"{'FAIL' if wrong else 'ok':4} {seconds:7.1f} s  {name}", flush=True)
        if wrong:
            self.wrong.append(f"{name}\n    " + "\n    ".join(wrong) + "\n" + last(output))
        return Path(place.read_text().strip()) if status == 0 else folder

    def opens(self, page: Path) -> None:
        """Open a page in a browser, where one is installed: it gets ready, and the console stays empty."""
        from tests.report.browser import BROWSER, evaluate

        if not BROWSER:
            print(f"SKIPPED: no chromium or chrome is installed, so {page.name} was not opened")
            return
        script = (
            "for (let i = 0; i < 2000 && document.documentElement.dataset.ready !== 'yes'; i++)"
            " await new Promise((done) => setTimeout(done, 5));"
            " return [document.documentElement.dataset.ready, document.getElementById('script-errors').textContent];"
        )
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:  # a browser ends slowly
            try:
                answer = evaluate(page.read_text(encoding="utf-8"), script, Path(folder))
            except (AssertionError, OSError) as error:
                answer = str(error)
        print(f"{'ok' if answer == ['yes', ''] else 'FAIL':4} {page.parent.name}/{page.name} in a browser")
        self.wrong += [f"{page.name} in a browser: {answer}"] * (answer != ["yes", ""])


def requirements(name: str, metadata: list[str], extras: set[str]) -> set[str]:
    """The packages that a package needs with some extras, and what they need in turn, by canonical name."""
    needed: dict[str, set[str]] = {}
    queue = [(canonicalize_name(name), extras)]
    while queue:
        who, wanted = queue.pop()
        if who in needed and wanted <= needed[who]:
            continue
        needed[who] = needed.get(who, set()) | wanted
        lines = metadata if who == canonicalize_name(name) else distribution(who).requires or []
        named = {"", *needed[who]}
        queue += [
            (canonicalize_name(one.name), set(one.extras))
            for one in map(Requirement, lines)
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in named)
        ]
    return set(needed) - {canonicalize_name(name)}


def environment(folder: Path, wheel: Path, extras: set[str]) -> Path:
    """A new environment with the wheel and, linked from this one, what it needs with some extras.

    Raises: PackageNotFoundError for a package that is needed and not in this environment.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    with zipfile.ZipFile(wheel) as files:
        name = next(name for name in files.namelist() if name.endswith(".dist-info/METADATA"))
        lines = Parser().parsestr(files.read(name).decode()).get_all("Requires-Dist") or []
    for package in requirements("monosem", lines, extras):
        for file in distribution(package).files or []:
            source, target = Path(str(file.locate())), site / file
            if ".." in file.parts or not source.is_file():
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):
                try:
                    os.link(source, target)
                except OSError:
                    shutil.copy2(source, target)
    pip = [sys._base_executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]  # type: ignore[attr-defined]
    subprocess.run([*pip, "--python", folder / "bin/python", "install", "--no-deps", "--no-index", wheel], check=True)
    return folder


def wheel_of(folder: Path) -> Path:
    """The wheel of a clone of what is committed here."""
    subprocess.run(["git", "clone", "--quiet", "--no-hardlinks", ROOT, folder / "clone"], check=True)
    pip = [sys._base_executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]  # type: ignore[attr-defined]
    build = ["--python", sys.executable, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*pip, *build, folder / "clone"], check=True)
    return next(folder.glob("monosem-*.whl"))


def block(page: str, heading: str, language: str) -> str:
    """The first fenced block of a language under a heading."""
    section = page.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return section.partition(f"```{language}\n")[2].partition("```")[0]


def commands(page: str) -> list[str]:
    """The indented lines of a page, which are its commands."""
    return [line.strip() for line in page.splitlines() if line.startswith("    ")]


def network(folder: Path, env: Path) -> Path:
    """A language model with random weights and six layers, and two texts for it: DIR, corpus.jsonl, held_out.jsonl."""
    script = (
        "import json; from tokenizers import Tokenizer, models, pre_tokenizers\n"
        "from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast\n"
        "words = ['<pad>', '<s>', *'abcdefghijklmnopqrstuvwxyz']\n"
        "t = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token='<pad>'))\n"
        "t.pre_tokenizer = pre_tokenizers.Whitespace()\n"
        "c = LlamaConfig(vocab_size=len(words), hidden_size=16, intermediate_size=24, num_hidden_layers=6,\n"
        "    num_attention_heads=2, num_key_value_heads=2, max_position_embeddings=512,\n"
        "    bos_token_id=1, eos_token_id=0)\n"
        "LlamaForCausalLM(c).save_pretrained('DIR')\n"
        "PreTrainedTokenizerFast(tokenizer_object=t, pad_token='<pad>', bos_token='<s>').save_pretrained('DIR')\n"
        "text = [' '.join(words[2 + (7 * i + j * j) % 26] for j in range(40)) for i in range(60)]\n"
        "for name, part in (('corpus', text[:50]), ('held_out', text[50:])):\n"
        "    open(name + '.jsonl', 'w').write(''.join(json.dumps({'text': one}) + '\\n' for one in part))\n"
    )
    folder.mkdir()
    subprocess.run([env / "bin/python", "-c", script], cwd=folder, check=True, stderr=subprocess.DEVNULL)
    return folder


def first_screen(gate: Gate, wheel: Path, extras: list[str]) -> Path:
    """README on the bare wheel, each extra for what it is for, and README's commands; returns the one with all."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    envs = {name: environment(gate.work / f"env-{name}", wheel, {name} - {"bare"}) for name in ("bare", *extras)}
    small = network(gate.work / "small", envs["all"])
    (small / "notebook.py").write_text(block(readme, "In a notebook", "python"))
    gate.run("bare: README in a notebook", "python notebook.py", small, envs["bare"])
    gate.run("bare: monosem list", "monosem list", small, envs["bare"], refuses='pip install "monosem[cli]"')
    for name in extras:
        if name in PARTS:
            gate.run(f"{name}: what it is for", PARTS[name], small, envs[name])
    for line in block(readme, "On a language model", "bash").splitlines():
        quick = line.replace("--n-q 16384", "--n-q 64 --steps 20")
        gate.run(f"README: {line.partition('#')[0].strip()}", quick, small, envs["all"])
    for page in (small / "latents.html", small / "sae/latents.html"):
        gate.opens(page)
    return envs["all"]


def walkthrough(gate: Gate, env: Path, whole: bool) -> None:
    """The walkthrough's commands in a clone, line by line, as one shell would run them."""
    lines = commands((ROOT / "docs/walkthrough.md").read_text(encoding="utf-8"))
    folder, text = gate.work / "walk", "\n".join(lines)
    folder.mkdir()
    gate.wrong += [f"the walkthrough no longer has {old!r}; mend SMALLER" for old in SMALLER if old not in text]
    for line in lines:
        if line.startswith("pip install"):
            continue  # environments are made of what it would install
        if not whole and line.startswith("python ../examples"):
            print(f"left out: {line} (--whole runs it)")
            continue
        command = line.replace("REPOSITORY", str(ROOT))
        for old, new in () if whole else SMALLER.items():
            command = command.replace(old, new)
        folder = gate.run(f"walkthrough: {line.partition('  #')[0].strip()}", command, folder, env)
        if gate.status == 3 and "studies fetch" in line:
            gate.wrong.pop()
            print("SKIPPED: the walkthrough's network could not be fetched, so the rest of it did not run")
            return
    gate.opens(gate.work / "walk/monosem/stories/sae/latents.html")


def main() -> int:
    """Run the gate; 1 when anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whole", action="store_true", help="numbers as printed")
    parser.add_argument("--record", action="store_true", help="write the seconds of every command to first_use.json")
    options = parser.parse_args()
    known = json.loads(TIMES.read_text()) if TIMES.is_file() else {}
    kind = "whole" if options.whole else "quick"
    with tempfile.TemporaryDirectory(prefix="first-use-") as folder:
        gate = Gate(Path(folder), {} if options.record else known.get(kind, {}))
        start = time.monotonic()
        wheel = wheel_of(gate.work)
        try:
            env = first_screen(gate, wheel, ["cli", "bench", "report", "data", "hub", "gpu", "cluster", "real", "all"])
            walkthrough(gate, env, options.whole)
        except PackageNotFoundError as error:
            gate.wrong.append(f"the wheel needs {error}, which requirements.lock does not bring")
        print(f"{len(gate.taken)} commands in {time.monotonic() - start:.0f} s, {len(gate.wrong)} faults")
    for one in gate.wrong:
        print(f"\n{one}")
    if options.record and not gate.wrong:
        TIMES.write_text(json.dumps(known | {kind: gate.taken}, indent=1) + "\n")
    return bool(gate.wrong)


if __name__ == "__main__":
    sys.exit(main())
