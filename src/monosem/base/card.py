"""Cards: what an object is, at a glance, in a notebook; plain HTML and SVG, in the colours of the page around it."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

Curve = Sequence[tuple[float, float]]
"""Points (x, y) with ascending x."""
WIDTH, HEIGHT = 220, 64
_BLUE = "#2a78d6"


def card(title: str, facts: Mapping[str, object], curves: Mapping[str, Curve] | None = None) -> str:
    """A title, facts by name, and small curves beside each other.

    Example:
        >>> "64 rows" in card("x", {"data": "64 rows"}, {"fvu": [(1, 0.9), (2, 0.1)]})
        True
    """
    rows = "".join(
        f'<tr><td style="opacity:.65;padding:1px 12px 1px 0;text-align:left">{escape(name)}</td>'
        f'<td style="text-align:left;padding:1px 0">{escape(str(value))}</td></tr>'
        for name, value in facts.items()
    )
    drawn = "".join(_sparkline(name, curve) for name, curve in (curves or {}).items() if len(curve) > 1)
    return (
        '<div style="border:1px solid rgba(128,128,128,.35);border-radius:6px;padding:8px 12px;display:inline-block">'
        f'<div style="font-weight:600;margin-bottom:4px">{escape(title)}</div>'
        f'<table style="border:0;margin:0">{rows}</table>'
        f'<div style="display:flex;gap:16px;flex-wrap:wrap;margin-top:6px">{drawn}</div></div>'
    )


def _sparkline(name: str, curve: Curve) -> str:
    """One curve as SVG, with its name, its least and largest value and where it ends."""
    xs, ys = [x for x, _ in curve], [y for _, y in curve]
    low, high, left, right = min(ys), max(ys), xs[0], xs[-1]
    across, up = (right - left) or 1.0, (high - low) or 1.0
    points = " ".join(
        f"{4 + (x - left) / across * (WIDTH - 8):.1f},{4 + (high - y) / up * (HEIGHT - 8):.1f}" for x, y in curve
    )
    return (
        f'<figure style="margin:0"><figcaption style="font-size:85%;opacity:.8">{escape(name)} '
        f"{ys[-1]:.4g} <span style='opacity:.65'>({low:.4g} to {high:.4g})</span></figcaption>"
        f'<svg width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(name)}">'
        f'<polyline points="{points}" fill="none" stroke="{_BLUE}" stroke-width="1.5"/></svg></figure>'
    )


def grid(head: Sequence[str], lines: Iterable[Sequence[object]]) -> str:
    """A small table as HTML."""

    def row(cells: Sequence[object], kind: str) -> str:
        style = 'style="text-align:left;padding:2px 10px 2px 0"'
        return "<tr>" + "".join(f"<{kind} {style}>{escape(str(cell))}</{kind}>" for cell in cells) + "</tr>"

    return f"<table>{row(head, 'th')}{''.join(row(line, 'td') for line in lines)}</table>"


def frame(columns: Sequence[Mapping[str, Any]]) -> Any:
    """Mappings as a pandas DataFrame, one row each. Raises: MonosemError where pandas is not installed."""
    try:
        import pandas as pd  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        from monosem.base.errors import MonosemError

        raise MonosemError("a data frame needs pandas; pip install pandas, or read the list itself") from None
    return pd.DataFrame(list(columns))
