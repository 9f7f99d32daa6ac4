"""Every study there is: importing this registers them."""

from monosem.bench.studies import anchoring, paper, settings
from monosem.bench.studies.base import STUDIES

__all__ = ["STUDIES", "anchoring", "paper", "settings"]
