"""Side environments with the released packages of other libraries, for tests/interop and `python -m benchmarks speed`.

    python -m benchmarks.peers              every peer
    python -m benchmarks.peers saelens ...  some of them
    python -m benchmarks.peers --speed      those that are timed
    python -m benchmarks.peers --list       what they are

Each lies under .peers/<name> and sees the main environment's packages (torch, numpy, safetensors); its own come first.
A tested version is pinned. Where a peer's full requirements do not resolve today, or are far larger than what
reading and writing weights needs, they are named here instead of resolved.
"""

import argparse
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PEERS_DIR = ROOT / ".peers"


@dataclass(frozen=True)
class Peer:
    """A released package: its name and version, what is installed with its requirements, and what without."""

    package: str
    version: str
    with_requirements: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()

    @property
    def pin(self) -> str:
        """package==version."""
        return f"{self.package}=={self.version}"


# SAEBench, which evaluates objects like SAELens', rides along with it.
PEERS = {
    "saelens": Peer(
        "sae-lens", "6.54.12", ("sae-lens==6.54.12",), ("sae-bench==0.6.0", "seaborn", "tabulate")
    ),
    "dictionary_learning": Peer(
        "dictionary-learning",
        "0.1.0",
        ("transformers<4.50", "datasets<4", "accelerate<1.5", "diffusers<0.33", "einops", "zstandard", "tqdm",
         "protobuf", "python-socketio[client]", "sentencepiece"),
        ("dictionary-learning==0.1.0", "nnsight==0.3.7"),
    ),
    "sparsify": Peer("eai-sparsify", "1.3.3", ("eai-sparsify==1.3.3",)),
    # its image models need a torchvision that fits the torch at hand; the autoencoders do not need them
    "overcomplete": Peer("overcomplete", "0.3.0", ("einops",), ("overcomplete==0.3.0",)),
    "circuit_tracer": Peer("circuit-tracer", "0.5.0", ("circuit-tracer==0.5.0",)),
    "llamascopium": Peer("llamascopium", "2.0.0b34", ("llamascopium==2.0.0b34", "transformer-lens<4")),
    # these wrap networks, whose sites tests/networks/test_capture.py reads
    "nnsight": Peer("nnsight", "0.8.1", ("nnsight==0.8.1",)),
    "transformer_lens": Peer("transformer-lens", "4.3.0", ("transformer-lens==4.3.0",)),
}  # fmt: skip

SPEED = ("saelens", "dictionary_learning", "sparsify", "overcomplete")


def make(name: str) -> None:
    """Create one environment, unless it is there and whole."""
    peer, folder = PEERS[name], PEERS_DIR / name
    stamp = folder / ".made"
    if stamp.is_file() and stamp.read_text() == repr(peer):
        print(f"{name}: {peer.pin} is there")
        return
    start = time.monotonic()
    subprocess.run([sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)], check=True)
    python = folder / "bin" / "python"
    site = next((folder / "lib").glob("python*/site-packages"))
    main = next((ROOT / ".venv" / "lib").glob("python*/site-packages"))
    (site / "zz_main_environment.pth").write_text(f"{main}\n")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python), "install", "--quiet"]
    torch = subprocess.run(
        [str(python), "-c", "import importlib.metadata as m; print(m.version('torch').partition('+')[0])"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    subprocess.run([*pip, *peer.with_requirements, f"torch=={torch}"], check=True)
    if peer.alone:
        subprocess.run([*pip, "--no-deps", *peer.alone], check=True)
    stamp.write_text(repr(peer))
    print(f"{name}: {peer.pin} made in {time.monotonic() - start:.0f} s")


def main() -> None:
    """Make the environments named on the command line."""
    parser = argparse.ArgumentParser(description="Make side environments with other libraries' released packages.")
    parser.add_argument("names", nargs="*", help=f"among {', '.join(PEERS)}; all if none")
    parser.add_argument("--speed", action="store_true", help=f"those that are timed: {', '.join(SPEED)}")
    parser.add_argument("--list", action="store_true", help="print what they are")
    given = parser.parse_args()
    unknown = sorted(set(given.names) - set(PEERS))
    if unknown:
        parser.error(f"{', '.join(unknown)} unknown; known are {', '.join(PEERS)}")
    for name in given.names or (SPEED if given.speed else PEERS):
        if given.list:
            print(f"{name}: {PEERS[name].pin}")
        else:
            make(name)


if __name__ == "__main__":
    main()
