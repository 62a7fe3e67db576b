"""Long paths and numbers in a few characters."""


def fit(path: str, width: int) -> str:
    """Shortens all parts of a path but the last, each in its middle.

    What tells leaves apart are the numbers at the ends of parts, and the last part.
    """
    *parents, name = path.split("/")
    for limit in range(len(path), 3, -1):
        shorter = "/".join([*(_cut(part, limit) for part in parents), name])
        if len(shorter) <= width:
            return shorter
    return _cut(path, width)


def _cut(text: str, width: int) -> str:
    """``text`` without its middle, if it is too long."""
    if len(text) <= width:
        return text
    left = (width - 1) // 2
    return f"{text[:left]}\u2026{text[left + 1 - width :]}"


def short(number: float) -> str:
    """Three digits and a power of 1000: 64M."""
    for unit in ("", "k", "M", "G", "T"):
        if not abs(number) >= 999.5:  # also for NaN
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number * 1e12 * 1000:.1e}"
