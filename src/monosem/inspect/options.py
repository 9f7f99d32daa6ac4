"""Options: how much a page of latents keeps."""

from dataclasses import dataclass

from monosem.base.errors import check


@dataclass(frozen=True)
class Options:
    """How much is kept of every latent: contexts, and tokens to the left and to the right of each."""

    top: int = 12
    sample: int = 4
    band: int = 1
    before: int = 20
    after: int = 10
    nearest: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("top", "sample", "band", "before", "after", "nearest"):
            value = getattr(self, name)
            check(0 <= value <= 200, f"{name}={value}; give 0 to 200")
        check(self.top >= 1, f"top={self.top}; at least one context is needed")
