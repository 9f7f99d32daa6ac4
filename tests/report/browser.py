"""A headless browser for the tests of pages: the document after its scripts, or what a script of ours returns in it."""

import fcntl
import json
import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from pathlib import Path
from typing import Any

BROWSER = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), "")
_LIMIT = 200
"""Seconds after which a browser that does not answer is ended."""


def _command(folder: Path, width: int, *more: str) -> list[str]:
    options = ["headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking"]
    options += ["disable-component-update", "disable-sync", f"user-data-dir={folder / 'profile'}"]
    return [BROWSER, *(f"--{option}" for option in options), f"--window-size={width},900", *more]


def _saved(page: str, folder: Path) -> str:
    path = folder / "page.html"
    path.write_text(page, encoding="utf-8")
    return path.as_uri()


def dom_of(page: str, folder: Path, width: int = 1400) -> str:
    """The document's text once its scripts have run; they must not wait for anything but timers."""
    command = _command(folder, width, "--virtual-time-budget=4000", "--dump-dom", _saved(page, folder))
    return subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT, check=True).stdout


def probed(dom: str) -> Any:
    """What a probe left, as JSON, in the body's data-probe."""
    found = re.search(r'<body[^>]* data-probe="([^"]*)"', dom)
    assert found, "the probe did not run to its end"
    return json.loads(unescape(found[1]))


def evaluate(page: str, script: str, folder: Path, width: int = 1400, address: str = "", quiet: bool = True) -> Any:
    """What a script returns (the body of an async function) in a page, as JSON; `address` follows the file's name.

    `quiet`: the console must stay empty, of messages and of what the page's policy stopped.
    """
    with _opened(_command(folder, width, "--remote-debugging-pipe", "about:blank"), folder) as (call, event, events):
        pages: list[Any] = []
        deadline = time.monotonic() + _LIMIT
        while not pages:
            assert time.monotonic() < deadline, "the browser opened no page"
            targets = call("Target.getTargets", {})["targetInfos"]
            pages = [target["targetId"] for target in targets if target["type"] == "page"]
        session = call("Target.attachToTarget", {"targetId": pages[0], "flatten": True})["sessionId"]
        for part in ("Page", "Log", "Runtime"):
            call(f"{part}.enable", {}, session)
        call("Page.navigate", {"url": _saved(page, folder) + address}, session)
        event("Page.loadEventFired")
        expression = f"(async () => {{ {script} }})()"
        options = {"expression": expression, "awaitPromise": True, "returnByValue": True}
        answer = call("Runtime.evaluate", options, session)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        said = [events[name] for name in ("Log.entryAdded", "Runtime.consoleAPICalled") if name in events]
        assert not (quiet and said), said
        return answer["result"].get("value")


@contextmanager
def _opened(command: list[str], folder: Path) -> Iterator[Any]:
    """A browser that is asked through two pipes: `call(method, parameters, session)`, `event(name)`, which waits,
    and the latest of the events of every name."""
    to_read, to_write, back_read, back_write = _pipes()
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    pipes = [(os.POSIX_SPAWN_DUP2, to_read, 3), (os.POSIX_SPAWN_DUP2, back_write, 4)]
    short = tempfile.mkdtemp(prefix="m")  # the browser makes a socket there, whose name has at most 107 characters
    process = os.posix_spawn(command[0], command, os.environ | {"TMPDIR": short}, file_actions=[*quiet, *pipes])
    os.close(to_read)
    os.close(back_write)
    number, rest, events = 0, b"", dict[str, Any]()

    def receive() -> dict[str, Any]:
        nonlocal rest
        while b"\0" not in rest:
            assert select.select([back_read], [], [], _LIMIT)[0], "the browser does not answer"
            part = os.read(back_read, 1 << 16)
            assert part, "the browser ended"
            rest += part
        text, _, rest = rest.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        if "method" in message:
            events[message["method"]] = message["params"]
        return message

    def call(method: str, parameters: dict[str, Any], session: str = "") -> Any:
        nonlocal number
        number += 1
        message = {"id": number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        os.write(to_write, json.dumps(message).encode() + b"\0")
        while (answer := receive()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def event(name: str) -> None:
        while name not in events:
            receive()

    try:
        yield call, event, events
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(to_write)
        os.close(back_read)
        shutil.rmtree(short, ignore_errors=True)


def _pipes() -> list[int]:
    """Both ends of two pipes, out of the way of the numbers that the browser expects."""
    ends = [*os.pipe(), *os.pipe()]
    moved = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in ends]
    for end in ends:
        os.close(end)
    return moved
