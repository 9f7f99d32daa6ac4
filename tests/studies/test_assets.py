"""Assets are what their hash says or an error; a silent registry and an absent file can be told from a wrong one."""

import functools
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from monosem.base.errors import AbsentError, CheckpointError, UnknownNameError
from monosem.cli.console import Commands
from studies.assets import catalog as assets
from studies.assets.catalog import ASSETS, Asset, cached, fetch, read_member, unpacked
from studies.fetch import fetch as command
from tests.real import need


def call(*words: str) -> Result:
    """`python -m studies fetch`, in this process."""
    app = typer.Typer(cls=Commands)
    app.command("fetch")(command)
    app.callback()(lambda: None)
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, ["fetch", *words])


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def _archive(kind: str) -> bytes:
    content, buffer = b"the weights", io.BytesIO()
    if kind == "npm":
        with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
            for name in ("package/data/a.bin", "package/dist/data/b.bin"):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    else:
        with zipfile.ZipFile(buffer, "w") as zipped:
            zipped.writestr("thing/data/a.bin", content)
            zipped.writestr("thing/dist/data/b.bin", content)
    return buffer.getvalue()


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A registry on this machine that holds a package of npm and one of PyPI, and an empty cache."""
    root = tmp_path / "registry"
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=root))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}"
    for kind, file in (("npm", "tiny-1.0.0.tgz"), ("pypi", "thing-1.0.0-py3-none-any.whl")):
        content = _archive(kind)
        at = root / "tiny" / "-" / file if kind == "npm" else root / "files" / file
        at.parent.mkdir(parents=True)
        at.write_bytes(content)
        package = "tiny" if kind == "npm" else "thing"
        asset = Asset(kind, package, "1.0.0", file, hashlib.sha256(content).hexdigest(), 1, "tiny", "MIT")  # type: ignore[arg-type]
        monkeypatch.setitem(ASSETS._items, package, asset)
    index = root / "simple" / "thing" / "index.html"
    index.parent.mkdir(parents=True)
    whl = "thing-1.0.0-py3-none-any.whl"
    index.write_text(json.dumps({"files": [{"filename": whl, "url": f"{base}/files/{whl}"}]}))
    monkeypatch.setenv("npm_config_registry", base)
    monkeypatch.setenv("PIP_INDEX_URL", f"{base}/simple")
    monkeypatch.setenv("MONOSEM_CACHE", str(tmp_path / "cache"))
    yield root
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("name", ["tiny", "thing"])
def test_fetched_once_and_unpacked(registry: Path, name: str) -> None:
    heard: list[int] = []
    path = fetch(name, heard.append)
    assert path == cached(name)
    assert heard[-1] == path.stat().st_size
    for file in registry.rglob("*"):
        if file.is_file():
            file.unlink()
    assert fetch(name) == path  # the cache is enough
    assert (unpacked(name, ["dist/data/b.bin"]) / "b.bin").read_bytes() == b"the weights"
    with pytest.raises(CheckpointError, match=r"holds 0 members c\.bin"):
        read_member(path, "c.bin")


def test_a_wrong_download_is_thrown_away(registry: Path) -> None:
    (registry / "tiny" / "-" / "tiny-1.0.0.tgz").write_bytes(b"another")
    wanted, found = ASSETS["tiny"].sha256, hashlib.sha256(b"another").hexdigest()
    with pytest.raises(CheckpointError, match=f"(?s)tiny-1.0.0.tgz.*{found}, expected {wanted}.*try again"):
        fetch("tiny")
    assert not list(assets.cache_folder().iterdir())


def test_a_changed_file_in_the_cache_is_refused(registry: Path) -> None:
    fetch("tiny").write_bytes(b"another")
    found = hashlib.sha256(b"another").hexdigest()
    for ask in (cached, fetch):
        with pytest.raises(CheckpointError, match=f"{found}, expected {ASSETS['tiny'].sha256}; delete it and run"):
            ask("tiny")


def test_absent_and_silent_can_be_skipped(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AbsentError, match="run `python -m studies fetch thing`"):
        cached("thing")
    with pytest.raises(pytest.skip.Exception, match="run `python -m studies fetch thing`"):
        need("thing")
    (registry / "simple" / "thing" / "index.html").write_text('{"files": []}')
    with pytest.raises(AbsentError, match="does not offer thing-1"):
        fetch("thing")
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    with pytest.raises(AbsentError, match="does not answer"):
        fetch("tiny")
    assert not list(assets.cache_folder().glob("*.tgz"))


def test_a_misspelt_name_has_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'minilm'"):
        fetch("minlm")


def test_command_tells_silence_from_a_wrong_hash(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = call("tiny", "thing")
    assert (done.exit_code, done.stdout.count("1.0.0  sha256")) == (0, 2)
    assert "thing" in call("--list").stdout
    cached("tiny").write_bytes(b"another")
    wrong = call("tiny")
    assert (wrong.exit_code, "delete it and run" in wrong.stderr) == (2, True)
    (assets.cache_folder() / "tiny-1.0.0.tgz").unlink()
    monkeypatch.setenv("npm_config_registry", "http://127.0.0.1:9")
    silent = call("tiny", "thing")
    assert (silent.exit_code, silent.stdout.count("thing 1.0.0")) == (3, 1)  # the others are fetched all the same
    assert "not fetched: tiny" in silent.stderr
