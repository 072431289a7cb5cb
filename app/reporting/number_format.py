"""Numbers as people read them: lap times, shares, durations, and figures with the digits that matter."""

import math

UNKNOWN = "-"
_HALF = 0.5  # per cent; a share closer than that to none or all of it would be rounded to it


def lap_time(seconds: float | None, std: float | None = None) -> str:
    """Return a lap time as "m:ss.mmm", such as "0:32.100"; "-" if it is unknown.

    Args:
        seconds: The time, in seconds.
        std: Standard deviation of a mean, in seconds, which is added as " ± 0.07 s"; 0, as of a single lap, is not.
    """
    if not _known(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(1000 * max(seconds, 0.0)), 60_000)
    return f"{minutes}:{rest // 1000:02d}.{rest % 1000:03d}" + (f" ± {std:.2f} s" if std else "")


def lap_share(mean: float | None, std: float | None = None) -> str:
    """Return a covered share of the lap with its standard deviation, if any: "1.00 ± 0.00"; "-" if it is unknown."""
    if not _known(mean):
        return UNKNOWN
    return f"{mean:.2f} ± {std:.2f}" if _known(std) else f"{mean:.2f}"


def percent(share: float | None, std: float | None = None) -> str:
    """Return a share as whole per cents, such as "97 %"; "-" if it is unknown.

    Almost all is not all of it, and almost nothing not nothing: "> 99 %" and "< 1 %".

    Args:
        share: The share, 0 to 1.
        std: Standard deviation of a mean, which is added with one more digit: "96.8 ± 4.1 %".
    """
    if not _known(share):
        return UNKNOWN
    if _known(std) and not 99.95 <= 100 * share < 100:
        return f"{100 * share:.1f} ± {100 * std:.1f} %"
    if 100.0 - _HALF <= 100 * share < 100:
        return "> 99 %"
    return "< 1 %" if 0 < 100 * share <= _HALF else f"{100 * share:.0f} %"


def duration(seconds: float | None) -> str:
    """Return seconds as "m:ss" or "h:mm:ss"; "-" if they are unknown."""
    if not _known(seconds):
        return UNKNOWN
    minutes, rest = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def significant(value: float | None, digits: int = 3) -> str:
    """Return a number with its significant digits, thousands separated and whole: "12,346"; "-" if it is unknown."""
    if not _known(value):
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) < 1e-4:
        return f"{value:.{digits - 1}e}"
    return f"{value:,.{_decimals(value, digits)}f}"


def plus_minus(mean: float | None, std: float | None, digits: int = 4) -> str:
    """Return a mean and its standard deviation with the same decimals, such as "500.5 ± 0.3".

    There are as many as the first two digits of the deviation need, and no more than the mean has ``digits`` for.

    Args:
        mean: The mean; "-" if it is unknown.
        std: The standard deviation; the mean stands alone if it is unknown.
        digits: Significant digits of the mean at most.
    """
    if not _known(mean) or not _known(std):
        return significant(mean)
    needed = [_decimals(value, count) for value, count in ((mean, digits), (std, 2)) if value]
    decimals = min(needed, default=0)
    return f"{mean:,.{decimals}f} ± {std:,.{decimals}f}"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def _decimals(value: float, digits: int) -> int:
    """Return the decimals of a number, not 0, with so many significant digits after rounding."""
    return max(0, digits - 1 - int(f"{value:.{digits - 1}e}".partition("e")[2]))
