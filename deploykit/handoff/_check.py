"""Ask the running server what the model answered where it was verified, and hold its answers to the same limits.

    python check.py --url http://127.0.0.1:8000 [--model NAME] [--version N] [--wait SECONDS]

Needs numpy and nothing else; proxies are not used, redirects not followed. Exit status: 0 every answer is within its
limit, 1 one is not, 2 usage, 4 no answer of the protocol, 5 a file of this folder is not the one that was handed over.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import http.client
import json
import math
import socket
import sys
import threading
import time
import zipfile
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np

HERE = Path(__file__).resolve().parent
DATATYPES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"} | {
    f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
NAMES = {text: name for name, text in DATATYPES.items()}
LENGTH = "Inference-Header-Content-Length"
TIMEOUT_S = 120.0
MAX_ANSWER = 256 << 20
REFUSING = (400, 413, 422)
BROKEN = (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RecursionError, MemoryError)


class RefusedError(Exception):
    """The server's own 4xx or 5xx."""

    def __init__(self, status: int, said: bytes) -> None:
        super().__init__(f"HTTP {status}: {plain(said[:300].decode(errors='replace'))}")
        self.status = status


class NoAnswerError(Exception):
    """Nothing came back that is an answer of the protocol."""


class RecordError(Exception):
    """A file of this folder is not what was handed over."""


def plain(text: object) -> str:
    """A server's text on one line, without what a terminal takes for commands."""
    return " ".join("".join(c if c.isprintable() else " " for c in str(text)[:400]).split())


def post(url: str, body: dict[str, Any] | None) -> Any:
    """The JSON answer to a POST of JSON, or to a GET where there is no body; raises as `send`."""
    data = None if body is None else json.dumps(body, allow_nan=False).encode()
    return json.loads(send(url, data, {"Content-Type": "application/json"})[0] or b"null")


def send(url: str, data: bytes | None, headers: dict[str, str], seconds: float = TIMEOUT_S) -> tuple[bytes, Any]:
    """Body and headers of an answer.

    A thread asks, and it is left behind when the time is over: a socket's own limit begins anew with every byte.

    Raises:
        RefusedError: an HTTP error, with what the server says.
        NoAnswerError: nothing answers there in time, or not in HTTP.
    """
    place = urlsplit(url)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=seconds)
    found: list[Any] = []

    def ask() -> None:
        try:
            connection.request("GET" if data is None else "POST", place.path or "/", data, headers)
            sockets.append(connection.sock)
            response = connection.getresponse()
            found.append((response.status, response.read(MAX_ANSWER + 1), response.headers, response.length))
        except Exception as error:  # noqa: BLE001 - told by the thread that waits
            found.append(error)
        finally:
            connection.close()

    sockets: list[Any] = []
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    if not found:
        for sock in sockets:  # ends the thread
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        raise NoAnswerError(f"no whole answer within {seconds:g} s")
    return answered(found[0])


def answered(found: Any) -> tuple[bytes, Any]:
    """Body and headers of what came; raises as `send`."""
    if isinstance(found, Exception):
        text = plain(getattr(found, "strerror", None) or found)
        raise NoAnswerError(f"{type(found).__name__} {text}") from found
    status, body, headers, left = found
    if status >= 400:
        raise RefusedError(status, body)
    if not 200 <= status < 300:
        raise NoAnswerError(f"HTTP {status}: redirects are not followed, give the final URL")
    if len(body) > MAX_ANSWER:
        raise NoAnswerError(f"an answer of more than {MAX_ANSWER} bytes")
    if left:
        raise NoAnswerError(f"the answer ends {left} bytes early")
    return body, headers


def flat(array: np.ndarray) -> list[Any]:
    """The values as JSON numbers."""
    return list(array.ravel().tolist())


def ask_oip(base: str, model: str, version: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One request of the Open Inference Protocol v2: JSON tensors, or bytes where the server has no JSON for them."""
    path = f"{base}/v2/models/{quote(model, safe='')}" + (f"/versions/{version}" if version else "") + "/infer"
    tensors = [
        {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape), "data": flat(array)}
        for name, array in inputs.items()
    ]
    try:
        found = post(path, {"inputs": tensors})
    except RefusedError as error:
        if "FP16" not in str(error):
            raise
        return ask_binary(path, inputs)  # Triton and KServe have no half precision in JSON
    return {
        one["name"]: np.asarray(one["data"], NAMES[one["datatype"]]).reshape(one["shape"]) for one in found["outputs"]
    }


def ask_binary(path: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with all tensors as bytes behind the JSON, both ways: the protocol's `binary_tensor_data`."""
    blocks = {name: np.asarray(a, a.dtype.newbyteorder("<"), order="C").tobytes() for name, a in inputs.items()}
    tensors = [
        {
            "name": name,
            "datatype": DATATYPES[array.dtype.name],
            "shape": list(array.shape),
            "parameters": {"binary_data_size": len(blocks[name])},
        }
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", LENGTH: str(len(head))}
    body, told = send(path, b"".join([head, *blocks.values()]), headers)
    at = int(told[LENGTH])
    answer = {}
    for one in json.loads(body[:at])["outputs"]:
        end = at + one["parameters"]["binary_data_size"]
        dtype = np.dtype(NAMES[one["datatype"]]).newbyteorder("<")
        answer[one["name"]] = np.frombuffer(body[at:end], dtype).reshape(one["shape"])
        at = end
    return answer


def ask_mlflow(base: str, model: str, version: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One request of MLflow's scoring protocol, which knows one model and one version; JSON tells no dtypes."""
    del model, version
    found = post(f"{base}/invocations", {"inputs": {name: array.tolist() for name, array in inputs.items()}})
    return {name: np.asarray(values) for name, values in found["predictions"].items()}


ASK = {"oip": ask_oip, "mlflow": ask_mlflow}


def judged(expected: np.ndarray, actual: np.ndarray, limit: float | None) -> tuple[bool, str]:
    """Whether one output is within its limit, and a text for the table.

    Args:
        expected: what the model computes in float64, or the exact integers.
        actual: what the server answered.
        limit: largest root mean square error; None asks for equality.
    """
    if actual.shape != expected.shape:
        return False, f"shape {list(actual.shape)} instead of {list(expected.shape)}"
    if limit is None:
        wrong = int((actual != expected).sum())
        return wrong == 0, "equal" if not wrong else f"{wrong} of {expected.size} values differ"
    if not np.isfinite(actual.astype(np.float64)).all():
        return False, "not finite"
    error = math.sqrt(float(np.mean((actual.astype(np.float64) - expected) ** 2))) if expected.size else 0.0
    return error <= limit, f"error {error:.3g}, limit {limit:.3g}"


def unchanged(record: dict[str, Any]) -> str:
    """The first file that is not the one that was handed over; empty when all are."""
    for path, digest in record["files"].items():
        file = HERE / path
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != digest:
            return str(path)
    return ""


def awaited(base: str, speaks: str, model: str, seconds: float) -> str:
    """Wait until the model is ready; why it was not within so many seconds, empty when it is.

    Servers answer before their models are loaded, so it is the model that is asked for.
    """
    path = f"/v2/models/{quote(model, safe='')}/ready" if speaks == "oip" else "/ping"
    until = time.monotonic() + seconds
    while True:
        left = until - time.monotonic()
        try:
            send(base + path, None, {}, min(max(left, 10.0), 60.0))
        except (RefusedError, NoAnswerError) as error:
            if time.monotonic() >= until:
                return str(error)
            time.sleep(0.2)
        else:
            return ""


def wrong_is_refused(ask: Any, inputs: dict[str, np.ndarray]) -> tuple[bool, str]:
    """Whether the server refuses an input with one value too many in its last axis."""
    name, array = next(iter(inputs.items()))
    if not array.ndim:
        return True, "not tried: a scalar input"
    wide = {**inputs, name: np.concatenate([array, array[..., :1]], axis=-1)}
    try:
        ask(wide)
    except RefusedError as refused:
        return refused.status in REFUSING, str(refused)[:80]
    return False, "answered as if nothing were wrong"


def loaded(record: dict[str, Any], case: dict[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs and expected outputs of a case.

    Raises:
        RecordError: its file does not hold them.
    """
    try:
        with np.load(HERE / case["file"], allow_pickle=False) as arrays:
            inputs = {name: arrays[f"inputs/{name}"] for name in record["inputs"]}
            return inputs, {name: arrays[f"expected/{name}"] for name in case["limits"]}
    except (*BROKEN, OSError, EOFError, zipfile.BadZipFile) as error:
        raise RecordError(f"{case['file']} is malformed: {plain(error)}") from error


def compared(
    record: dict[str, Any], case: dict[str, Any], expected: dict[str, np.ndarray], answer: dict[str, np.ndarray]
) -> dict[str, tuple[bool, str]]:
    """Per output whether it is right, and a text; datatypes and names too many only where the protocol tells them."""
    results: dict[str, tuple[bool, str]] = {}
    dtypes = {one["name"]: one["dtype"] for one in record["signature"]["outputs"]}
    for name in sorted({*expected, *dtypes} - set(answer)):
        results[name] = (False, "missing in the answer")
    for name, array in answer.items():
        told = array.dtype.name
        if record["speaks"] == "oip" and name not in dtypes:
            results[plain(name)[:80]] = (False, "the signature has no such output")
        elif record["speaks"] == "oip" and told != dtypes[name]:
            results[name] = (False, f"{told} instead of {dtypes[name]}")
        elif name in expected:
            results[name] = judged(expected[name], array, case["limits"][name])
    return results


def check(record: dict[str, Any], version: dict[str, Any], ask: Any) -> int:
    """Replay all cases of a version; a line for each and one for the whole; the exit status."""
    wrong = 0
    for case in version["cases"]:
        inputs, expected = loaded(record, case)
        try:
            results = compared(record, case, expected, ask(inputs))
        except RefusedError as error:
            if error.status == 404:
                raise NoAnswerError(f"no such model or version there, see --model: {error}") from error
            results = {"": (False, str(error))}
        for name, (fine, said) in results.items():
            wrong += not fine
            print(f"{'ok  ' if fine else 'FAIL'}  {case['id']:<20} {name:<16} {said}")
    fixed = [name for name in record["inputs"] if record["fixed_last"].get(name)]
    if fixed:
        refused, said = wrong_is_refused(ask, {fixed[0]: inputs[fixed[0]], **inputs})
        wrong += not refused
        print(f"{'ok  ' if refused else 'FAIL'}  {'wrong shape':<20} {fixed[0]:<16} refused: {said}")
    count = len(version["cases"])
    print(f"{count} cases: {'all answers within their limits' if not wrong else f'{wrong} wrong'}")
    return 1 if wrong else 0


def well_formed(record: Any) -> bool:
    """Whether the record has all that is read of it; raises one of `BROKEN` for what is not even of that form."""
    limits = [limit for one in record["versions"] for case in one["cases"] for limit in case["limits"].values()]
    texts = [record["model"], *record["inputs"], *record["files"], *record["files"].values()]
    texts += [one[key] for one in record["signature"]["outputs"] for key in ("name", "dtype")]
    texts += [case[key] for one in record["versions"] for case in one["cases"] for key in ("id", "file")]
    return (
        all(isinstance(text, str) for text in texts)
        and all(case["file"] in record["files"] for one in record["versions"] for case in one["cases"])
        and all(one is None or (type(one) in (int, float) and math.isfinite(one)) for one in limits)
        and all(type(one["number"]) is int for one in record["versions"])
        and all(isinstance(record[key], kind) for key, kind in (("inputs", list), ("fixed_last", dict)))
        and record["speaks"] in ASK
        and bool(record["versions"])
    )


def read() -> dict[str, Any]:
    """The record of this folder.

    Raises:
        RecordError: it is malformed.
    """
    try:
        record: dict[str, Any] = json.loads((HERE / "handoff.json").read_text(encoding="utf-8"))
        if well_formed(record):
            return record
    except (*BROKEN, OSError) as error:
        raise RecordError(f"handoff.json is malformed: {type(error).__name__} {plain(error)}") from error
    raise RecordError("handoff.json is malformed")


def is_base(url: str) -> bool:
    """Whether `url` is http:// or https:// with a host, perhaps a port and a path, and nothing else."""
    try:
        place = urlsplit(url)
        port = place.port
    except ValueError:
        return False
    plain_path = not any(c.isspace() or not c.isprintable() or not c.isascii() for c in url)
    others = place.query or place.fragment or place.username or port == 0
    return place.scheme in ("http", "https") and bool(place.hostname) and plain_path and not others


def main() -> int:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", help="default: the name under which it was handed over")
    parser.add_argument("--version", type=int, help="default: the latest, asked for without a number")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for the server")
    given = parser.parse_args()
    base = given.url.rstrip("/")
    if not is_base(base):
        parser.error("a URL is http://HOST:PORT or https://HOST:PORT, perhaps with a path")
    try:
        return proven(parser, given, base)
    except RecordError as error:
        print(error, file=sys.stderr)
        return 5
    except NoAnswerError as error:
        print(f"no answer from {base}: {error}", file=sys.stderr)
    except BROKEN as error:
        print(f"{base} does not answer in this protocol: {type(error).__name__} {plain(error)}", file=sys.stderr)
    return 4


def proven(parser: argparse.ArgumentParser, given: argparse.Namespace, base: str) -> int:
    """The whole check; raises what `main` turns into an exit status."""
    record = read()
    numbers = {one["number"]: one for one in record["versions"]}
    number = given.version if given.version is not None else max(numbers)
    if number not in numbers:
        parser.error(f"a version is one of {sorted(numbers)}")
    if changed := unchanged(record):
        raise RecordError(f"{changed} is not the file that was handed over")
    if not numbers[number]["cases"]:
        print("no case of the reference travels in this folder: use deploykit verify --url", file=sys.stderr)
        return 2
    model = given.model or record["model"]
    if why := awaited(base, record["speaks"], model, given.wait):
        raise NoAnswerError(f"{model} is not ready: {why}; start the server first, see --model, or give --wait 60")
    asked = "" if given.version is None else str(given.version)
    return check(record, numbers[number], lambda inputs: ASK[record["speaks"]](base, model, asked, inputs))


if __name__ == "__main__":
    sys.exit(main())
