"""The compiled library is used if it is whole and answers right; whatever else happens, torch computes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monosem.kernels.native import build
from monosem.kernels.native.build import symbols, wrong_answer

pytestmark = pytest.mark.skipif(build.library() is None, reason=f"no compiled kernels: {build.why_absent()}")

FAST = {"MONOSEM_NATIVE_FLAGS": "-O0"}
LOOK = (
    "import warnings; warnings.simplefilter('always'); from monosem.kernels.native.build import library, why_absent;"
    "print('compiled' if library() else f'torch: {why_absent()}')"
)


def look(environment: dict[str, str], before: str = "") -> tuple[str, str]:
    """What a fresh process says of its kernels, and its warnings; it must not die."""
    known = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    command = [sys.executable, "-c", f"{before}\n{LOOK}"]
    ran = subprocess.run(command, env=known | FAST | environment, capture_output=True, text=True, check=True)
    return ran.stdout.strip(), ran.stderr


def test_a_damaged_build_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A truncated library kills the process that loads it, and every later one, until somebody deletes it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("MONOSEM_NATIVE_FLAGS", "-O0")
    compiler = build._compiler()
    made = build._built(compiler, "kernels-test")
    assert made is not None
    whole = made.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1])):
        made.write_bytes(damaged)
        assert build._built(None, "kernels-test") is None  # nothing is used, or left to be used
        assert not made.exists()
    assert build._built(compiler, "kernels-test") == made
    assert made.read_bytes() == whole
    assert not list(made.parent.glob("*.part"))


def test_a_user_without_a_home_gets_kernels_of_one_process(tmp_path: Path) -> None:
    nobody = "import pathlib\ndef home(): raise RuntimeError('Could not determine home directory.')\n"
    nobody += "pathlib.Path.home = home"
    out, said = look({"TMPDIR": str(tmp_path)}, nobody)
    assert (out, said.count("\n")) == ("compiled", 1)
    assert "compiles its kernels for this processor" in said
    assert not list(tmp_path.glob("monosem-*"))


OTHER = """echo 'void other(void) {}' > $TMPDIR/o.c
for o; do case $p in -o) out=$o;; esac; p=$o; done
exec /usr/bin/cc -shared -fPIC -o $out $TMPDIR/o.c"""


@pytest.mark.parametrize(
    ("compiler", "reason"),
    [
        ("printf '\\377\\376 broken' >&2; exit 1", "returned non-zero exit status"),
        (OTHER, "monosem_latent_major gives a wrong answer, or is missing"),
        ("exit 0", "file too short"),
    ],
)
def test_whatever_the_compiler_does_torch_takes_over_with_one_warning(
    compiler: str, reason: str, tmp_path: Path
) -> None:
    cc = tmp_path / "cc"
    cc.write_text(f"#!/bin/sh\n{compiler}\n")
    cc.chmod(0o755)
    path = f"{tmp_path}:{os.environ['PATH']}"
    out, warned = look({"XDG_CACHE_HOME": str(tmp_path), "PATH": path, "TMPDIR": str(tmp_path)})
    assert out.startswith("torch: ")
    assert reason in out
    assert warned.count("torch computes what compiled kernels would, slower") == 1


@pytest.mark.usefixtures("as_in_production")
def test_a_wrong_answer_is_noticed() -> None:
    """Every kernel that is asked can fail: each in turn does nothing."""
    made = build.library()
    assert made is not None

    class Lying:
        def __init__(self, wrong: str) -> None:
            self.wrong = wrong

        def __getattr__(self, name: str) -> Any:
            return (lambda *arguments: 0) if name == self.wrong else getattr(made, name)

    exported = symbols(build._texts(build.SOURCES))
    assert {"monosem_work", "monosem_job", "monosem_rows_step", "monosem_proposed"} < set(exported)
    assert wrong_answer(made, exported) is None
    assert wrong_answer(made, ["monosem_none"]) == "monosem_none"
    for name in ("latent_major", "scatter", "inner", "bags", "count", "kth_largest", "jump"):
        assert wrong_answer(Lying(f"monosem_{name}"), []) == f"monosem_{name}"  # type: ignore[arg-type]
