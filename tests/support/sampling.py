"""Samples of expensive tests in a plain run; `scripts/test --slow` runs all cases."""


class Scale:
    """Set once by pytest_configure, before collection."""

    slow = False


def sampled(cases, size):
    """Cases for `parametrize`: `size` of them, evenly spread; with --slow, all."""
    cases = list(cases)
    return cases if Scale.slow else [cases[number * len(cases) // size] for number in range(size)]


def repeats(plain, *, slow):
    """Number of repetitions: `plain`, or `slow` with --slow."""
    return slow if Scale.slow else plain
