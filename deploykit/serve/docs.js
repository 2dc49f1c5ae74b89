"use strict";
const main = document.querySelector("main"), at = (id) => document.getElementById(id);
const inputs = JSON.parse(main.dataset.inputs), form = document.querySelector("form");

function example() {
  const size = Math.max(1, at("size").valueAsNumber || 1), random = at("fill").value === "random";
  const value = (datatype) => {
    if (datatype === "BOOL") return random && Math.random() < 0.5;
    if (datatype.startsWith("FP")) return random ? Math.round(Math.random() * 1e4) / 1e4 : 0;
    return random ? Math.floor(Math.random() * 2) : 0;
  };
  return { inputs: inputs.map(({ name, datatype, shape }) => {
    const full = shape.map((dim) => (dim < 0 ? Math.max(size, -dim) : dim));
    const count = full.reduce((product, dim) => product * dim, 1);
    // a browser that shows millions of numbers helps nobody
    const data = count > 200000 ? [] : Array.from({ length: count }, () => value(datatype));
    return { name, datatype, shape: full, data };
  }) };
}

function fill() { at("request").value = JSON.stringify(example()); }

function tell(text, kind) { at("status").textContent = text; at("status").className = kind; }

async function send(event) {
  event.preventDefault();
  const button = form.querySelector("button"), began = performance.now();
  button.disabled = true;
  tell("waiting for the answer…", "");
  try {
    const headers = { "Content-Type": "application/json" };
    const answer = await fetch(main.dataset.infer, { method: "POST", headers, body: at("request").value });
    const text = await answer.text(), took = (performance.now() - began).toFixed(1);
    at("answer").hidden = false;
    at("answer").textContent = text;
    tell(`${answer.status} ${answer.statusText}, ${took} ms as the browser sees it`, answer.ok ? "good" : "bad");
  } catch (error) {
    tell(`no answer: ${error.message}`, "bad");
  } finally {
    button.disabled = false;
  }
}

at("sizes").hidden = !inputs.some(({ shape }) => shape.some((dim) => dim < 0));
at("fill").addEventListener("change", fill);
at("size").addEventListener("change", fill);
form.addEventListener("submit", send);
at("curl").textContent = at("curl").textContent.replace("http://HOST:PORT", location.origin);
fill();
