"""Samples of expensive tests in a plain run; `scripts/test --slow` runs all cases."""


class Scale:
    """Set once by pytest_configure, before collection."""

    slow = False


def sampled(cases, size, *, last=False):
    """Cases for `parametrize`: `size` of them, evenly spread, with the last one if `last`; with --slow, all."""
    cases = list(cases)
    if Scale.slow:
        return cases
    if last:
        return [cases[number * (len(cases) - 1) // (size - 1)] for number in range(size)]
    return [cases[number * len(cases) // size] for number in range(size)]


def repeats(plain, *, slow):
    """Number of repetitions: `plain`, or `slow` with --slow."""
    return slow if Scale.slow else plain
