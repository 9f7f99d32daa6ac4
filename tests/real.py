"""Downloaded models and data in tests: there, or the test is skipped with the reason."""

import pytest

from monosem.base.errors import AbsentError
from studies.assets.catalog import cached
from studies.assets.models import NETWORKS, save_network


def need(*names: str) -> None:
    """Skip the test unless every asset is in the cache; a wrong hash is a failure, not a reason to skip.

    Networks get the folder by which the library opens them.
    """
    for name in names:
        try:
            cached(name)
            if name in NETWORKS:
                save_network(name)
        except AbsentError as error:
            pytest.skip(str(error))
