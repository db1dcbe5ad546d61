"""Numbers as people read them: as many digits as the uncertainty allows, the same number down a column."""

from __future__ import annotations

import math
from collections.abc import Iterable

MINUS = "\N{MINUS SIGN}"
NOTHING = "\N{EN DASH}"
SIGNIFICANT = 2
"""Digits of an uncertainty that are worth printing."""
MOST_DECIMALS = 8


def decimals_for(uncertainties: Iterable[float | None], values: Iterable[float | None] = ()) -> int:
    """Decimals for a column: the smallest positive uncertainty keeps two significant digits.

    Without any uncertainty (one replicate) the largest value keeps four.
    """
    spreads = [abs(u) for u in uncertainties if u is not None and math.isfinite(u) and u != 0]
    if spreads:
        return _decimals(min(spreads), SIGNIFICANT)
    sizes = [abs(v) for v in values if v is not None and math.isfinite(v) and v != 0]
    return _decimals(max(sizes), 4) if sizes else 2


def _decimals(size: float, digits: int) -> int:
    return min(max(digits - 1 - math.floor(math.log10(size)), 0), MOST_DECIMALS)


def half_width(interval: tuple[float, float] | None) -> float | None:
    return None if interval is None else (interval[1] - interval[0]) / 2


def fixed(value: float | None, decimals: int, *, sign: bool = False) -> str:
    """`value` with so many decimals and a true minus sign; a dash where there is none. Zero carries no sign."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{abs(value):,.{decimals}f}"
    if not any(digit in text for digit in "123456789"):
        return text
    return (MINUS if value < 0 else "+" if sign else "") + text


def interval_text(interval: tuple[float, float] | None, decimals: int, *, sign: bool = False) -> str:
    """`[low, high]`, or nothing at all."""
    if interval is None:
        return ""
    return f"[{fixed(interval[0], decimals, sign=sign)}, {fixed(interval[1], decimals, sign=sign)}]"


def p_text(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return NOTHING
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def significant(value: float | None, digits: int = 3) -> str:
    """`value` alone in its place, to so many significant digits, without an exponent between 1e-5 and 1e15."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if not -5 <= exponent < 15:
        mantissa, _, power = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(power)}".replace("-", MINUS)
    return fixed(value, max(digits - 1 - exponent, 0))


def percent(fraction: float) -> str:
    """0.95 -> `95 %`, 0.999 -> `99.9 %`."""
    return f"{100 * fraction:.6g} %"


def duration(seconds: float | None) -> str:
    """`48 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{significant(seconds, 2)} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
