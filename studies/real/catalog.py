"""Every study on real rows there is: importing this registers them."""

from studies.real import classes, resampling
from studies.real.base import REAL_STUDIES

__all__ = ["REAL_STUDIES", "classes", "resampling"]
