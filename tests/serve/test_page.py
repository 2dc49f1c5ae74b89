"""The page at /docs: what it says, that nothing comes from elsewhere, and that a browser sends the form."""

from __future__ import annotations

import base64
import hashlib
import json
import re

import pytest

from deploykit.serve.model import About
from deploykit.serve.page import Page
from deploykit.serve.rules import Rules
from deploykit.signature import Dim, Signature, TensorSpec
from tests.servers.browser import browsing


def made(signature: Signature, name: str = "m", **rules) -> tuple[str, dict[str, str]]:
    page = Page(About(name, "onnx", "onnxruntime", signature), Rules(**rules), "0.1")
    return page.body.decode(), dict(page.headers)


PLAIN = Signature((TensorSpec("x", "float32", ("N", 4)),), (TensorSpec("y", "float32", ("N", 2)),), (Dim("N", 2, 9),))


def test_names_of_tensors_are_text_and_nothing_else():
    nasty = '"><script>alert(1)</script>'
    body, _ = made(Signature((TensorSpec(nasty, "float32", (nasty, 4)),), (), (Dim(nasty),)))
    assert "<script>alert" not in body
    assert "&lt;script&gt;alert(1)" in body


def test_the_policy_names_exactly_what_is_on_the_page():
    body, headers = made(PLAIN)
    policy = headers["Content-Security-Policy"]
    for kind in ("style", "script"):
        inline = re.findall(rf"<{kind}>(.*?)</{kind}>", body, re.DOTALL)
        assert len(inline) == 1
        digest = base64.b64encode(hashlib.sha256(inline[0].encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", body)
    assert not re.search(r"\son\w+=|style=", body)


def test_a_short_example_is_in_the_line_for_a_shell_and_a_long_one_in_a_file():
    body, _ = made(PLAIN)
    assert "-d &#x27;{&quot;inputs&quot;:[{&quot;name&quot;:&quot;x&quot;" in body
    assert "[0,0,0,0,0,0,0,0]" in body  # two rows, the least there may be
    long, _ = made(Signature((TensorSpec("x", "uint8", (3, 224, 224)),)))
    assert "@request.json" in long
    assert len(long) < 20_000


def test_limits_are_said():
    body, _ = made(PLAIN, concurrency=3, max_body=5 << 20)
    assert "5 MiB" in body
    assert "3 requests computed at a time" in body
    assert "from 2 to 9" in body


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browsing(tmp_path_factory.mktemp("browser")) as page:
        yield page


def press(tab, key: str) -> None:
    text = {"Enter": "\r"}.get(key, "")
    for kind in ("keyDown", "keyUp"):
        code = {"Tab": 9, "Enter": 13}[key]
        tab.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, text=text)


def test_a_browser_sends_the_form_by_keyboard_and_shows_the_answer(server, tab):
    tab.open(f"{server.url}/docs")
    sent = json.loads(tab.evaluate("document.getElementById('request').value"))
    assert [one["name"] for one in sent["inputs"]] == ["x", "index", "steps"]
    assert tab.evaluate("document.getElementById('curl').textContent").startswith(f"curl -s {server.url}/v2/models/")
    for _ in range(10):
        press(tab, "Tab")
        if tab.evaluate("document.activeElement.tagName") == "BUTTON":
            break
    assert tab.evaluate("document.activeElement.textContent") == "Send"
    press(tab, "Enter")
    tab.wait("document.getElementById('status').className === 'good'")
    told = json.loads(tab.evaluate("document.getElementById('answer').textContent"))
    assert {one["name"]: one["shape"] for one in told["outputs"]} == {"y": [1, 3], "row": [1, 3], "count": []}
    assert tab.said == []
    assert {url.split("/")[2] for url in tab.requested if url.startswith("http")} == {server.url.split("/")[2]}


def test_a_browser_shows_what_is_wrong(server, tab):
    tab.open(f"{server.url}/docs")
    tab.evaluate("document.getElementById('request').value = '{}'; document.querySelector('button').click()")
    tab.wait("document.getElementById('status').className === 'bad'")
    assert tab.evaluate("document.getElementById('status').textContent").startswith("400 ")
    assert "MALFORMED_REQUEST" in tab.evaluate("document.getElementById('answer').textContent")


def test_random_numbers_and_the_size_of_symbolic_dims(server, tab):
    tab.open(f"{server.url}/docs")
    fill = "const s = document.getElementById('size'), f = document.getElementById('fill');"
    fill += "s.value = 3; f.value = 'random'; f.dispatchEvent(new Event('change'))"
    tab.evaluate(f"(() => {{ {fill} }})()")
    x = json.loads(tab.evaluate("document.getElementById('request').value"))["inputs"][0]
    assert x["shape"] == [3, 5]
    assert len(x["data"]) == 15
    assert len(set(x["data"])) > 10


@pytest.mark.parametrize(("width", "dark"), [(1000, False), (1000, True), (380, False)])
def test_the_page_fits_and_can_be_read(server, tab, tmp_path, width, dark):
    tab.open(f"{server.url}/docs")
    tab.picture(tmp_path / "page.png", width, 900, dark=dark)
    assert (tmp_path / "page.png").stat().st_size > 20_000
    assert tab.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
    colors = "getComputedStyle(document.body)"
    ink, paper = (tab.evaluate(f"{colors}.{name}") for name in ("color", "backgroundColor"))
    light, deep = (sum(map(int, re.findall(r"\d+", one)[:3])) for one in (paper, ink))
    assert (light < deep) == dark
    assert abs(light - deep) > 500


def test_another_sites_page_gets_nothing(server, tab):
    tab.open("data:text/html,<title>elsewhere</title>")
    fetched = f"fetch('{server.url}/v2').then(() => 'got it', () => 'blocked')"
    assert tab.evaluate(fetched) == "blocked"
