"""Known answers: what the compiled kernels must say of a few small numbers before anything else asks them.

Numbers are small integers, so that sums are exact in any order and on any processor.
"""

import ctypes
import re
from collections.abc import Sequence

_F, _I, _N = ctypes.c_float, ctypes.c_int64, ctypes.c_int32


def symbols(sources: Sequence[str]) -> list[str]:
    """The functions that C sources export."""
    return [name for text in sources for name in re.findall(r"^(?:void|int64_t) (monosem_\w+)\(", text, re.MULTILINE)]


def wrong_answer(library: ctypes.CDLL, names: Sequence[str]) -> str | None:
    """The first function that is missing, or whose answer is wrong; None where all is well."""
    missing = next((name for name in names if not hasattr(library, name)), None)
    return missing or next((name for name, right in _answers(library) if not right), None)


def _answers(c: ctypes.CDLL) -> list[tuple[str, bool]]:
    """Two rows of cells (0, 1), (0, 2) and (1, 1) with values 2, 3, 5, and W = [[1, 2], [3, 4], [5, 6]]."""
    crow, col, values = (_I * 3)(0, 2, 3), (_I * 3)(1, 2, 1), (_F * 3)(2, 3, 5)
    weight, starts, row, cell = (_F * 6)(1, 2, 3, 4, 5, 6), (_I * 4)(), (_N * 3)(), (_I * 3)()
    c.monosem_latent_major(crow, col, _I(0), _I(2), _I(3), starts, row, cell)
    order = [list(starts), list(row), list(cell)] == [[0, 0, 2, 3], [0, 1, 0], [0, 2, 1]]
    out, products, bags = (_F * 4)(), (_F * 3)(), (_F * 6)()
    cells, latents, wide = (starts, row, cell), (_I(0), _I(3)), _I(2)
    c.monosem_scatter(*cells, *latents, values, weight, wide, wide, out, wide)
    c.monosem_inner(*cells, *latents, (_F * 4)(1, 0, 0, 1), wide, weight, wide, wide, products)
    c.monosem_bags(*cells, *latents, values, (_F * 4)(1, 0, 0, 1), wide, wide, bags, wide)
    numbers, largest, z, value, sums = (_F * 5)(3, -1, 4, 1, 5), _F(), (_F * 4)(1, -2, 3, 0), (_F * 4)(), (_F * 2)()
    c.monosem_count.restype = _I
    nonzero = c.monosem_count(z, _I(0), _I(4))
    c.monosem_kth_largest(numbers, _I(5), _I(2), ctypes.byref(largest))
    c.monosem_jump(z, None, value, wide, _I(0), wide, sums)
    return [
        ("monosem_latent_major", order),
        ("monosem_scatter", list(out) == [21, 26, 15, 20]),
        ("monosem_inner", list(products) == [3, 5, 4]),
        ("monosem_bags", list(bags) == [0, 0, 2, 5, 3, 0]),
        ("monosem_count", nonzero == 3),
        ("monosem_kth_largest", largest.value == 4),
        ("monosem_jump", list(value) + list(sums) == [1, 0, 3, 0, 4, 0]),
    ]
