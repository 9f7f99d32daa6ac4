"""Random streams by key: the same (root seed, stream, counters) gives the same numbers anywhere.

No generator is ever advanced across steps, so a run has no random state to save: whatever
needs numbers at step t asks for the stream's generator with counter t.
"""

import hashlib

import numpy as np
import torch


def key(root: int, stream: str, *counters: int) -> int:
    """A 128-bit key: the first half of sha256 of "root/stream/c0/c1/...".

    Example:
        >>> key(0, "init") == key(0, "init"), key(0, "init") == key(1, "init")
        (True, False)
    """
    text = "/".join([str(int(root)), stream, *(str(int(c)) for c in counters)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little")


def philox(root: int, stream: str, *counters: int) -> np.random.Generator:
    """numpy's counter-based Philox generator for one key (Salmon et al. 2011)."""
    return np.random.Generator(np.random.Philox(key=key(root, stream, *counters)))


def torch_generator(root: int, stream: str, *counters: int) -> torch.Generator:
    """A CPU torch generator for one key (torch keeps 64 bits of it)."""
    generator = torch.Generator()
    generator.manual_seed(key(root, stream, *counters) % 2**63)
    return generator
