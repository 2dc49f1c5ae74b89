"""How Triton's PyTorch backend finds a tensor's place from its name: after `GetNamingConvention` in its sources."""

from __future__ import annotations

from collections.abc import Sequence

_MARK = "__"


def wrongly_bound(names: Sequence[str], expected: Sequence[str]) -> list[str]:
    """Names of a configuration that the backend binds to another place than the model has them at.

    When all names end in `__NUMBER` the number is the place; otherwise the order in the configuration is. (Inputs that
    are all named like arguments of `forward` find their places in any order, which only the file can tell.)

    Args:
        names: in the order of the configuration.
        expected: the model's, in call or return order; a name that is not there may be `ANY__PLACE`.
    """
    by_number = all(_numbered(name) for name in names)
    wrong = []
    for place, name in enumerate(names):
        bound = int(name.partition(_MARK)[2] or 0) if by_number else place
        meant = expected.index(name) if name in expected else bound
        if bound != meant or bound >= len(expected):
            wrong.append(name)
    return wrong


def _numbered(name: str) -> bool:
    """As there: what follows the first two underscores has no character but digits, and may be empty."""
    _, mark, rest = name.partition(_MARK)
    return bool(mark) and all(char in "0123456789" for char in rest)
