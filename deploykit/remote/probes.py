"""Wrong requests: what a server must refuse, and live on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from deploykit.endpoint import Endpoint
from deploykit.errors import DeploykitError
from deploykit.remote.naming import INPUT_CLASS, Naming
from deploykit.results import Check, CheckVerdict
from deploykit.signature import Feeds, Signature

DTYPE_FOR = {"f": "int64", "i": "float32", "u": "float32", "b": "float32"}
"""A dtype of another kind, by the kind of the promised one."""


@dataclass(frozen=True)
class Wrong:
    """One request that does not fit the signature."""

    id: str
    what: str
    feeds: Feeds


def wrongs(signature: Signature, feeds: Feeds) -> Iterator[Wrong]:
    """One wrong request of each kind that this signature has.

    Args:
        signature: what is promised.
        feeds: a right request.
    """
    first = signature.inputs[0]
    array = feeds[first.name]
    fixed = [axis for axis, dim in enumerate(first.shape) if isinstance(dim, int)]
    if fixed:
        axis = fixed[-1]
        longer = np.concatenate([array, array.take([0], axis=axis)], axis=axis)
        yield Wrong("wrong-shape", f"{first.name} has one value too many in axis {axis}", {**feeds, first.name: longer})
    yield Wrong("wrong-rank", f"{first.name} has an axis too many", {**feeds, first.name: array[..., np.newaxis]})
    other = DTYPE_FOR.get(array.dtype.kind)
    if other is not None:
        with np.errstate(all="ignore"):
            turned = np.nan_to_num(array).astype(other)
        yield Wrong("wrong-dtype", f"{first.name} is {other}", {**feeds, first.name: turned})
    renamed = {f"{name}_no_such" if name == first.name else name: value for name, value in feeds.items()}
    yield Wrong("wrong-name", f"{first.name} has another name", renamed)
    if len(feeds) > 1:
        rest = {name: value for name, value in feeds.items() if name != first.name}
        yield Wrong("missing-input", f"{first.name} is missing", rest)


def probe(endpoint: Endpoint, naming: Naming, signature: Signature, feeds: Feeds, *, typed: bool = True) -> list[Check]:
    """Ask every wrong request, and a right one at the end.

    Args:
        endpoint: the model on its server.
        naming: of its tensors.
        signature: what is promised.
        feeds: a right request.
        typed: whether requests tell dtypes: in plain JSON every number is one.

    Raises:
        WorkError: SERVER_UNREACHABLE, the server is gone.
    """
    checks = [
        _asked(endpoint, naming, wrong) for wrong in wrongs(signature, feeds) if typed or wrong.id != "wrong-dtype"
    ]
    body = endpoint.raw(b'{"inputs": [', {"Content-Type": "application/json"})
    checks.append(_of_status("malformed", "the JSON ends in the middle", body.status, body.said))
    try:
        endpoint.infer(naming.sent(feeds))
    except DeploykitError as error:
        reason = f"after wrong requests a right one gets {error.code}: {error.message}"
        checks.append(_check("alive", "fail", "WRONG_INPUT_CRASHES", reason))
    else:
        checks.append(_check("alive", "pass", "", "after wrong requests a right one is answered"))
    return checks


def _asked(endpoint: Endpoint, naming: Naming, wrong: Wrong) -> Check:
    try:
        endpoint.infer(naming.sent(wrong.feeds))
    except DeploykitError as error:
        if error.code in {"SERVER_UNREACHABLE", "TIME_LIMIT"}:
            raise
        if error.code == "REQUEST_REFUSED":
            return _check(wrong.id, "pass", "", f"{wrong.what}: refused")
        if error.code == "SERVER_ERROR":
            return _check(wrong.id, "warn", "WRONG_INPUT_CRASHES", f"{wrong.what}: {error.message}")
        return _check(wrong.id, "fail", "WRONG_INPUT_ACCEPTED", f"{wrong.what}, and the answer is {error.code}")
    return _check(wrong.id, "fail", "WRONG_INPUT_ACCEPTED", f"{wrong.what}, and it was answered as if it were right")


def _of_status(id_: str, what: str, status: int, said: str) -> Check:
    if 400 <= status < 500:
        return _check(id_, "pass", "", f"{what}: refused")
    if status >= 500:
        return _check(id_, "warn", "WRONG_INPUT_CRASHES", f"{what}: HTTP {status}: {said}")
    return _check(id_, "fail", "WRONG_INPUT_ACCEPTED", f"{what}, and it was answered with {status}")


def _check(id_: str, verdict: CheckVerdict, code: str, reason: str) -> Check:
    return Check(id_, INPUT_CLASS, "", verdict, code, "refused", None, None, reason)
