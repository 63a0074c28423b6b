"""The one statistic that all benchmarks share."""


def quantile(values: list[float], part: float) -> float:
    """The value that `part` (0 to 1) of the `values` do not exceed; there is at least one."""
    return sorted(values)[min(len(values) - 1, int(part * len(values)))]
