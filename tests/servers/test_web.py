"""The web folder for real: onnxruntime-node by its own script, onnxruntime-web in a Chromium by its own page."""

import hashlib
import http.client
import io
import json
import os
import re
import shutil
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from deploykit import handed
from deploykit.handed import RECORD
from deploykit.handoff import _layout
from tests.servers.blocks import blocks, typed
from tests.servers.browser import browsing, program
from tests.servers.environments import ROOT, node_modules
from tests.servers.odd_model import odd
from tests.servers.onnx_folders import spoil
from tests.servers.running import clean_environment, free_port, running

EXAMPLE = ROOT / "examples" / "serving" / "web" / "README.md"
VARIANTS = ("onnx", "onnx-fp16", "onnx-int8-dynamic", "onnx-int8-static")
SETTINGS = {1: "threads=2,graph_level=basic,spinning=off,arena=off", 2: "threads=2", 3: "threads=1", 4: ""}
"""Of the four versions, in the order of the variants."""

READY = "document.getElementById('status').textContent.startsWith('Ready')"
ERROR = "document.getElementById('error').textContent"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The example's walk, with all four variants as versions of one model; npm's install is the cached one."""
    program("node")
    place = tmp_path_factory.mktemp("walk")
    export, handoff, *_ = blocks(EXAMPLE)
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = typed(export, place, env)
    assert done.returncode == 0, done.stderr
    for number, variant in enumerate(VARIANTS, 1):
        words = f"--version {number} " + (f"--session {SETTINGS[number]}" if SETTINGS[number] else "")
        done = typed(f"{handoff.replace('--variant onnx-int8-static', f'--variant {variant}')} {words}", place, env)
        assert done.returncode == 0, done.stderr
    return installed(place / "handoff/web")


def installed(folder: Path) -> Path:
    """What `npm ci --ignore-scripts` leaves there."""
    (folder / "node_modules").symlink_to(node_modules("web") / "node_modules")
    return folder


@contextmanager
def serving(folder: Path, log: Path):
    """The README's start command; gives the address that it prints."""
    port = free_port()

    def ready() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=1) as answer:
            return bool(answer.status == 200)

    env = clean_environment(PORT=str(port))
    words = ["bash", "-euc", blocks(folder / "README.md")[1] if (folder / "README.md").is_file() else "node serve.mjs"]
    with running(words, ready=ready, cwd=folder, log=log, env=env, timeout_s=30):
        yield re.search(r"http://127\.0\.0\.1:\d+", log.read_text())[0]


@pytest.fixture(scope="module")
def url(folder, tmp_path_factory):
    with serving(folder, tmp_path_factory.mktemp("serve") / "log") as address:
        yield address


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


def node(folder: Path, *more: str):
    return typed(" ".join(["node run.mjs", *more]), folder, clean_environment(), 60)


def again(folder: Path) -> None:
    """Record the digests of the files as they are now: what somebody would do who hides a change."""
    record = handed.load(folder)
    (folder / RECORD).write_text(record.model_copy(update={"files": _layout.digests(folder)}).to_json())


def copied(folder: Path, place: Path) -> Path:
    shutil.copytree(folder, place, symlinks=True)
    return place


def opened(page, address: str) -> str:
    """Go to the page and wait for the engine; gives its status line."""
    page.open("about:blank#")  # a change of the hash alone loads nothing
    page.call("Page.navigate", url=address)
    page.wait(f"location.href !== 'about:blank#' && ({READY} || {ERROR})")
    return str(page.evaluate("document.getElementById('status').textContent"))


def checked(page) -> tuple[str, list[list[str]]]:
    """Press Check: the verdict and the rows."""
    page.evaluate("document.getElementById('check').click()")
    page.wait(f"document.getElementById('verdict').dataset.verdict || {ERROR}")
    rows = page.evaluate(
        "[...document.querySelectorAll('#rows tbody tr')].map(r => [...r.cells].map(c => c.textContent))"
    )
    return str(page.evaluate("document.getElementById('verdict').dataset.verdict")), rows


def session_line(text: str) -> str:
    """What the engine says that it was opened with."""
    return re.search(r"Session Options \{.*", text)[0]


# onnxruntime-node


def test_the_readme_names_the_commands_of_the_example(folder):
    assert blocks(folder / "README.md") == ["npm ci --ignore-scripts", "node serve.mjs", "node run.mjs"]
    assert blocks(EXAMPLE)[2:] == blocks(folder / "README.md")
    assert "import" in blocks(EXAMPLE, "js")[0]


@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=VARIANTS)
def test_node_answers_the_reference(folder, number):
    done = node(folder, f"--version {number}")
    assert done.returncode == 0, done.stdout + done.stderr
    cases = handed.load(folder).versions[number - 1].cases
    assert done.stdout.count("ok  ") == len(cases) + 1  # and the wrong shape
    assert f"{len(cases)} cases: all answers within their limits" in done.stdout


def test_settings_reach_nodes_engine(folder):
    done = node(folder, "--version 1 --verbose")
    line = session_line(done.stdout + done.stderr)
    for word in (
        "thread_pool_size: 2 ",
        "graph_optimization_level:1 ",
        "enable_cpu_mem_arena:0 ",
        "enable_mem_pattern:0 ",
    ):
        assert word in line
    assert "allow_spinning: 0" in line
    done = node(folder, "--version 3 --verbose")
    line = session_line(done.stdout + done.stderr)
    for word in ("thread_pool_size: 1 ", "graph_optimization_level:4 ", "enable_cpu_mem_arena:1 ", "allow_spinning: 1"):
        assert word in line


def test_a_changed_weight_is_seen(folder, tmp_path, page):
    """The digest first; when that is hidden, the answers, in Node and in the browser."""
    there = copied(folder, tmp_path / "there")
    spoil(there / "model/1")
    done = node(there, "--version 1")
    assert (done.returncode, done.stderr) == (5, "model/1/model.onnx is not the file that was handed over\n")
    with serving(there, tmp_path / "one.log") as address:
        assert opened(page, f"{address}/#1") == "The model is not loaded."
        assert page.evaluate(ERROR) == "model/1/model.onnx is not the file that was handed over"
    again(there)
    done = node(there, "--version 1")
    assert done.returncode == 1
    assert "FAIL  example" in done.stdout
    with serving(there, tmp_path / "two.log") as address:
        opened(page, f"{address}/#1")
        verdict, rows = checked(page)
    assert verdict == "fail"
    assert ["FAIL", "example", "output"] in [row[:3] for row in rows]


def test_other_ends_of_the_script(folder, tmp_path):
    assert node(folder, "--version 9").returncode == 2
    assert node(folder, "--nothing").returncode == 2
    there = copied(folder, tmp_path / "there")
    (there / "node_modules").unlink()
    done = node(there)
    assert done.returncode == 4
    assert "run npm ci --ignore-scripts" in done.stderr
    (installed(there) / "model/4/model.onnx").write_bytes(b"no model")
    again(there)
    done = node(there)
    assert (done.returncode, done.stdout) == (4, "")
    assert "onnxruntime-node cannot run it" in done.stderr


def test_the_program_of_the_example_runs(folder, tmp_path):
    script = folder / "mine.mjs"
    script.write_text(blocks(EXAMPLE, "js")[0])
    try:
        done = typed("node mine.mjs", folder, clean_environment())
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Float32Array(10) [")


# the page's server


def asked(url: str, path: str, method: str = "GET", **headers: str):
    """Status, headers and body of a request whose path is sent as it stands."""
    host, port = url.removeprefix("http://").split(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=10)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_the_server_gives_the_folders_files_and_nothing_else(folder, url):
    (folder / "secret.txt").write_text("not recorded")
    engine = "/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"
    types = {"/": "text/html; charset=utf-8", "/page.mjs": "text/javascript; charset=utf-8", engine: "application/wasm"}
    for path, kind in types.items():
        status, headers, body = asked(url, path)
        assert (status, headers["Content-Type"], len(body)) == (200, kind, int(headers["Content-Length"]))
        assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
        assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
        assert headers["Content-Security-Policy"].startswith("default-src 'none'; script-src 'self'")
        assert headers["X-Content-Type-Options"] == "nosniff"
    outside = (
        "/../../../../etc/passwd", "/%2e%2e/%2e%2e/etc/passwd", "/..%2f..%2fetc/passwd", "//etc/passwd", "/secret.txt",
        "/model/../secret.txt", "/node_modules/onnxruntime-node/package.json", "/model", "/%", "/index.html%00",
    )  # fmt: skip
    assert {path: asked(url, path)[0] for path in outside} == dict.fromkeys(outside, 404)
    assert asked(url, "/", "POST")[0] == 405
    assert asked(url, "/", "HEAD")[2] == b""
    assert asked(url, "/", Host="attacker.example")[0] == 421


def test_a_port_that_is_taken_or_none_is_said(folder, url):
    port = url.rpartition(":")[2]
    done = typed("node serve.mjs", folder, clean_environment(PORT=port))
    assert (done.returncode, done.stderr) == (4, f"port {port} is taken: set PORT to another one\n")
    assert typed("node serve.mjs", folder, clean_environment(PORT="many")).returncode == 2


# onnxruntime-web in a browser


@pytest.mark.parametrize("number", [1, 2, 3, 4], ids=VARIANTS)
def test_the_browser_answers_the_reference(folder, url, page, number):
    threads = {"threads=1": "1 thread.", "threads=2": "2 threads."}.get(SETTINGS[number].partition(",")[0], "")
    assert threads in opened(page, f"{url}/#{number}"), page.evaluate(ERROR)
    assert page.evaluate("crossOriginIsolated")
    verdict, rows = checked(page)
    assert verdict == "pass", rows
    version = handed.load(folder).versions[number - 1]
    assert [row[:2] for row in rows] == [["ok", one.id] for one in version.cases] + [["ok", "wrong shape"]]
    assert page.said == []  # no violation of the policy, no warning, no error
    assert {address.partition("/#")[0].rpartition("/")[0].startswith(url) for address in page.requested} == {True}


def test_settings_reach_the_browsers_engine(url, page):
    opened(page, f"{url}/#1")
    code = """(async () => {
      const ort = await import('./node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs');
      const { openedInPage } = await import('./model.mjs');
      const get = async (path) => new Uint8Array(await (await fetch(path)).arrayBuffer());
      const opening = (await (await fetch('web.json')).json()).versions[1];
      await openedInPage(ort, { ...opening, session: { ...opening.session, logSeverityLevel: 1 } }, get);
      return ort.env.wasm.numThreads;
    })()"""
    assert page.evaluate(code) == 2
    line = session_line("\n".join(page.said))
    for word in ("graph_optimization_level:1 ", "enable_cpu_mem_arena:0 ", "enable_mem_pattern:0 "):
        assert word in line
    assert "session.intra_op.allow_spinning: 0" in line


CHOSEN = """(async () => {
  const files = new DataTransfer();
  files.items.add(new File([await (await fetch('reference/1/batch-3.npz')).arrayBuffer()], 'batch-3.npz'));
  const field = document.querySelector('#inputs input[type=file]');
  field.files = files.files;
  field.dispatchEvent(new Event('change'));
})()"""
"""Somebody chooses a file for the first input."""


def press(page, button: str, text: str | None = None) -> None:
    """Press a button, before that type values into the first input."""
    if text is not None:
        field = "document.querySelector('#inputs textarea')"
        page.evaluate(
            f"{field}.value = {json.dumps(text)}; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))"
        )
    page.evaluate(f"document.getElementById('{button}').click()")


def test_somebody_tries_the_model(url, page):
    opened(page, f"{url}/#1")
    press(page, "zeros")
    press(page, "run")
    page.wait("document.querySelector('[data-output=output] td')")
    shown = page.evaluate("[...document.querySelectorAll('[data-output=output] td')].map(c => Number(c.textContent))")
    with np.load(_case(url, "zeros")) as arrays:
        right = arrays["expected/output"][0]
    assert np.allclose(shown, right, rtol=0, atol=1e-4)
    for text, words in (
        ("[[1, 2]]", "image is float32 [N, 1, 28, 28], and this has the shape [1, 2]"),
        ("[1, [2]]", "the lists of image are not even"),
        ('["a"]', '"a" is no float32, as image wants'),
        ("{", "the values of image are no JSON"),
    ):
        press(page, "run", text)
        page.wait(ERROR)
        assert words in page.evaluate(ERROR)
        assert page.evaluate("document.getElementById('error').offsetHeight") > 0
        assert page.evaluate("document.querySelector('[data-output]')") is None
    press(page, "random")
    page.evaluate(CHOSEN)
    page.wait("document.querySelector('#inputs p').textContent.startsWith('float32 [3, 1, 28, 28], batch-3.npz')")
    press(page, "run")
    page.wait("document.querySelector('[data-output=output] td')")
    assert page.evaluate(ERROR) == ""


def test_another_version_is_another_page(url, page):
    opened(page, f"{url}/#1")
    page.evaluate(
        "((list) => { list.value = '2'; list.dispatchEvent(new Event('change')); })(document.getElementById('version'))"
    )
    page.wait(
        f"location.hash === '#2' && {READY} && document.getElementById('about').textContent.startsWith('onnx-fp16')"
    )


def _case(url: str, name: str):
    with urllib.request.urlopen(f"{url}/reference/1/{name}.npz", timeout=10) as answer:
        return io.BytesIO(answer.read())


def test_the_page_fits_its_window_in_light_and_dark(url, page, tmp_path):
    opened(page, f"{url}/#1")
    press(page, "run")
    checked(page)
    seen = set()
    for width in (1280, 390):
        for dark in (False, True):
            page.picture(tmp_path / "page.png", width, 844, dark=dark)
            seen.add(hashlib.sha256((tmp_path / "page.png").read_bytes()).hexdigest())
            assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert len(seen) == 4
    assert page.evaluate("document.querySelectorAll('button:not([type]), select, input, textarea').length") >= 6


def test_without_isolation_there_is_one_thread_and_the_page_says_so(folder, page, tmp_path):
    """Another server that sends no headers at all."""
    program("node")
    port = free_port()
    words = [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]

    def ready() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/index.html", timeout=1) as answer:
            return bool(answer.status == 200)

    with running(words, ready=ready, cwd=folder, log=tmp_path / "log"):
        status = opened(page, f"http://127.0.0.1:{port}/index.html#1")
        assert "not cross-origin isolated" in status
        assert checked(page)[0] == "pass"


def test_every_kind_of_number_travels(tmp_path, page):
    program("node")
    folder = installed(odd(tmp_path))
    done = node(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("ok  ") == 8
    with serving(folder, tmp_path / "log") as address:
        opened(page, address)
        assert page.evaluate(ERROR) == ""
        verdict, rows = checked(page)
        assert (verdict, len(rows)) == ("pass", 8), rows
        press(page, "run")
        page.wait(f"document.querySelectorAll('[data-output]').length === 4 || {ERROR}")
        assert page.evaluate(ERROR) == ""
