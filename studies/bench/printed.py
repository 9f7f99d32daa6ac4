"""The numbers of the paper's tables, as printed: (M_GT in percent, M_IP), None where it prints none.

Source: Tang et al. (arXiv 2512.05534 v3), tables 1 and 4 to 7.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

Printed = Mapping[tuple[str, str], tuple[float | None, float | None]]
"""By (row, arm)."""

_Pair = tuple[float | None, float | None]


def _rows(**rows: tuple[_Pair, _Pair]) -> dict[str, tuple[_Pair, _Pair]]:
    return rows


def _table(rows: Mapping[str, Sequence[_Pair]]) -> Printed:
    found = {}
    for row, (plain, anchored) in rows.items():
        found[row, "paper"], found[row, "paper+anchors"] = plain, anchored
    return MappingProxyType(found)


TABLE1 = _table(
    _rows(
        relu_l1=((0.0, 0.205), (0.0, 0.246)),
        jumprelu=((0.0, 0.237), (0.0, 0.333)),
        topk=((84.90, 0.983), (87.63, 0.986)),
        batch_topk=((84.80, 0.981), (89.38, 0.988)),
        matryoshka=((83.70, 0.982), (87.32, 0.985)),
        topk_transcoder=((23.60, 0.838), (25.05, 0.838)),
        topk_crosscoder=((56.42, 0.940), (57.71, 0.941)),
    )
)
TABLE4 = _table(
    {
        "n = 800": ((0.0, 0.361), (100.0, 0.436)),
        "n = 900": ((0.0, 0.298), (98.89, 0.345)),
        "n = 1000": ((0.0, 0.254), (85.50, 0.292)),
        "n = 1100": ((0.0, 0.223), (58.09, 0.258)),
        "n = 1200": ((0.0, 0.203), (30.58, 0.233)),
        "n = 1300": ((0.0, 0.192), (15.23, 0.216)),
        "n = 1400": ((0.0, 0.181), (8.57, 0.207)),
    }
)
TABLE5 = _table(
    {
        "M = 0.05, relu_l1": ((0.0, 0.205), (0.0, 0.246)),
        "M = 0.05, jumprelu": ((0.0, 0.239), (0.0, 0.326)),
        "M = 0.05, topk": ((84.3, None), (87.3, None)),
        "M = 0.05, batch_topk": ((86.1, None), (87.5, None)),
        "M = 0.05, matryoshka": ((83.8, None), (85.8, None)),
        "M = 0.2, relu_l1": ((0.0, 0.204), (0.0, 0.245)),
        "M = 0.2, jumprelu": ((0.0, 0.237), (0.0, 0.333)),
        "M = 0.2, topk": ((85.2, None), (86.8, None)),
        "M = 0.2, batch_topk": ((84.7, None), (90.7, None)),
        "M = 0.2, matryoshka": ((84.7, None), (87.6, None)),
        "M = 0.5, relu_l1": ((0.0, 0.203), (0.0, 0.243)),
        "M = 0.5, jumprelu": ((0.0, 0.237), (0.0, 0.325)),
        "M = 0.5, topk": ((84.2, None), (88.2, None)),
        "M = 0.5, batch_topk": ((83.7, None), (89.6, None)),
        "M = 0.5, matryoshka": ((83.9, None), (86.4, None)),
    }
)
TABLE6 = _table(
    {
        "rate 0.005, relu_l1": ((0.0, 0.231), (0.0, 0.326)),
        "rate 0.005, jumprelu": ((11.8, 0.890), (74.8, 0.970)),
        "rate 0.005, topk": ((82.2, 0.978), (84.3, 0.981)),
        "rate 0.005, batch_topk": ((80.5, 0.976), (83.2, 0.980)),
        "rate 0.005, matryoshka": ((79.3, 0.974), (86.1, 0.983)),
        **{
            f"rate 0.01, {row}": (TABLE1[row, "paper"], TABLE1[row, "paper+anchors"])
            for row in ("relu_l1", "jumprelu", "topk", "batch_topk", "matryoshka")
        },
        "rate 0.1, relu_l1": ((0.0, 0.186), (0.0, 0.191)),
        "rate 0.1, jumprelu": ((0.0, 0.191), (0.0, 0.193)),
        "rate 0.1, topk": ((98.8, 0.981), (98.4, 0.979)),
        "rate 0.1, batch_topk": ((95.6, 0.975), (96.2, 0.976)),
        "rate 0.1, matryoshka": ((99.7, 0.991), (99.7, 0.991)),
    }
)
TABLE7 = _table(
    {
        "k = 32": ((100.0, 0.999), (100.0, 0.999)),
        "k = 64": ((93.9, 0.992), (93.4, 0.991)),
        "k = 128": ((86.7, 0.986), (88.0, 0.987)),
    }
)
TABLE2: Printed = MappingProxyType(
    {
        ("topk", "plain"): (0.0, 0.517),
        ("topk", "anchored"): (24.13, 0.851),
        ("batch_topk", "plain"): (0.0, 0.508),
        ("batch_topk", "anchored"): (24.13, 0.847),
        ("matryoshka", "plain"): (0.0, 0.683),
        ("matryoshka", "anchored"): (24.45, 0.858),
    }
)
"""CLIP embeddings of ImageNet-1K, 30 anchors; by method and arm."""
