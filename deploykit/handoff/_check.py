"""Ask the running server what the model answered where it was verified, and hold its answers to the same limits.

    python check.py --url http://127.0.0.1:8000 [--model NAME] [--version N] [--wait SECONDS]

Needs numpy and nothing else. Exit status: 0 every answer is within its limit, 1 one is not, 2 usage, 4 no answer,
5 a file of this folder is not the one that was handed over.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
DATATYPES = {"bool": "BOOL", "float16": "FP16", "float32": "FP32", "float64": "FP64"} | {
    f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)
}
NAMES = {text: name for name, text in DATATYPES.items()}
LENGTH = "Inference-Header-Content-Length"
TIMEOUT_S = 120.0


class RefusedError(Exception):
    """The server's own 4xx or 5xx."""


def post(url: str, body: dict[str, Any] | None) -> Any:
    """The JSON answer to a POST of JSON, or to a GET where there is no body.

    Raises:
        RefusedError: an HTTP error, with what the server says.
        OSError: nothing answers there.
    """
    data = None if body is None else json.dumps(body, allow_nan=False).encode()
    return json.loads(send(url, data, {"Content-Type": "application/json"})[0] or b"null")


def send(url: str, data: bytes | None, headers: dict[str, str]) -> tuple[bytes, Any]:
    """Body and headers of an answer; raises as `post`."""
    request = urllib.request.Request(url, data, headers)  # noqa: S310 - checked in main
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        raise RefusedError(f"HTTP {error.code}: {error.read()[:300].decode(errors='replace')}") from error


def flat(array: np.ndarray) -> list[Any]:
    """The values as JSON numbers."""
    return list(array.ravel().tolist())


def ask_oip(base: str, model: str, version: str, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One request of the Open Inference Protocol v2: JSON tensors, or bytes where the server has no JSON for them."""
    path = f"{base}/v2/models/{model}" + (f"/versions/{version}" if version else "") + "/infer"
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


def awaited(base: str, speaks: str, seconds: float) -> bool:
    """Whether the server answers at all within so many seconds."""
    until = time.monotonic() + seconds
    while True:
        try:
            post(f"{base}/v2/health/ready" if speaks == "oip" else f"{base}/ping", None)
        except (RefusedError, OSError, ValueError) as error:
            if isinstance(error, ValueError):  # MLflow answers with a bare line break
                return True
            if time.monotonic() >= until:
                return False
            time.sleep(0.2)
        else:
            return True


def wrong_is_refused(ask: Any, inputs: dict[str, np.ndarray]) -> tuple[bool, str]:
    """Whether the server refuses an input with one value too many in its last axis."""
    name, array = next(iter(inputs.items()))
    if not array.ndim:
        return True, "not tried: a scalar input"
    wide = {**inputs, name: np.concatenate([array, array[..., :1]], axis=-1)}
    try:
        ask(wide)
    except RefusedError as refused:
        return "HTTP 4" in str(refused)[:6], str(refused).splitlines()[0][:80]
    return False, "answered as if nothing were wrong"


def check(record: dict[str, Any], version: dict[str, Any], ask: Any) -> int:
    """Replay all cases of a version; a line for each and one for the whole; the exit status."""
    wrong = 0
    for case in version["cases"]:
        with np.load(HERE / case["file"], allow_pickle=False) as arrays:
            inputs = {name: arrays[f"inputs/{name}"] for name in record["inputs"]}
            expected = {name: arrays[f"expected/{name}"] for name in case["limits"]}
        try:
            answer = ask(inputs)
            missing = sorted(set(expected) - set(answer))
            results = dict.fromkeys(missing, (False, "missing in the answer"))
            for name, right in expected.items():
                if name in answer:
                    results[name] = judged(right, answer[name], case["limits"][name])
        except RefusedError as error:
            results = {"": (False, str(error).splitlines()[0])}
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


def main() -> int:
    """See the module."""
    record = json.loads((HERE / "handoff.json").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model", default=record["model"])
    parser.add_argument("--version", type=int, help="default: the latest, asked for without a number")
    parser.add_argument("--wait", type=float, default=0.0, help="seconds to wait for the server")
    given = parser.parse_args()
    base = given.url.rstrip("/")
    numbers = {one["number"]: one for one in record["versions"]}
    number = given.version if given.version is not None else max(numbers)
    if not base.startswith(("http://", "https://")) or number not in numbers:
        parser.error(f"a version is one of {sorted(numbers)}, and a URL begins with http:// or https://")
    if changed := unchanged(record):
        print(f"{changed} is not the file that was handed over", file=sys.stderr)
        return 5
    if not awaited(base, record["speaks"], given.wait):
        print(f"nothing answers at {base}: start the server first, or give --wait 60", file=sys.stderr)
        return 4
    asked = "" if given.version is None else str(given.version)

    def ask(inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return ASK[record["speaks"]](base, given.model, asked, inputs)

    try:
        return check(record, numbers[number], ask)
    except OSError as error:
        print(f"no answer from {base}: {error}", file=sys.stderr)
        return 4
    except (KeyError, TypeError, ValueError) as error:
        print(f"{base} does not answer in this protocol: {error!r}", file=sys.stderr)
        return 4


if __name__ == "__main__":
    sys.exit(main())
