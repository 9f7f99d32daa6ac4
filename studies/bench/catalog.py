"""Every study there is: importing this registers them."""

from studies.bench import anchoring, paper, settings
from studies.bench.base import STUDIES

__all__ = ["STUDIES", "anchoring", "paper", "settings"]
