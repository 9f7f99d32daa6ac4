"""Every study on real rows there is: importing this registers them."""

from monosem.representations.studies import classes, resampling
from monosem.representations.studies.base import REAL_STUDIES

__all__ = ["REAL_STUDIES", "classes", "resampling"]
