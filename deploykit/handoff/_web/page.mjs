// The page: opens the model, takes arrays, shows answers, replays the reference. What it knows is in handoff.json.

import { checked, firstLine, summary } from './check.mjs';
import { described, parsed, showAnswer, textOf } from './arrays.mjs';
import { asked as answered, filled, openedInPage } from './model.mjs';
import { npy, npz } from './npz.mjs';

const ENGINE = './node_modules/onnxruntime-web/dist/ort.wasm.bundle.min.mjs';

let ort = null;
const $ = (id) => document.getElementById(id);
const state = { record: null, openings: null, version: null, session: null, feeds: {}, edited: new Set() };

/** An element with text and attributes. */
function element(tag, text = '', attributes = {}) {
  const made = document.createElement(tag);
  made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

function fail(error) {
  $('error').textContent = error ? firstLine(error) : '';
  $('error').hidden = !error;
}

/** A file of the folder as bytes; refused if it is not the one that was handed over. */
async function get(path) {
  const response = await fetch(path.split('/').map(encodeURIComponent).join('/'));
  if (!response.ok) throw new Error(`${path}: HTTP ${response.status}`);
  const bytes = new Uint8Array(await response.arrayBuffer());
  const digest = state.record?.files[path];
  if (digest && globalThis.crypto?.subtle) {
    const found = new Uint8Array(await crypto.subtle.digest('SHA-256', bytes));
    const hex = Array.from(found, (byte) => byte.toString(16).padStart(2, '0')).join('');
    if (hex !== digest) throw new Error(`${path} is not the file that was handed over`);
  }
  return bytes;
}

const json = async (path) => JSON.parse(new TextDecoder().decode(await get(path)));
const ask = (feeds) => answered(ort, state.session, state.record.signature, feeds);

/** Opens the version that is chosen. */
async function open(number) {
  ready(false);
  fail();
  $('status').textContent = 'Loading the model…';
  state.version = state.record.versions.find((version) => version.number === number);
  const { variant, settings, verdict } = state.version;
  const proven = verdict === 'pass' ? 'passed the parity gate' : 'not verified';
  $('about').textContent = [variant.name, variant.precision, proven, settings].filter(Boolean).join(' · ');
  state.session = await openedInPage(ort, state.openings[number], get);
  const { numThreads } = ort.env.wasm;
  const alone = globalThis.crossOriginIsolated ? '' : ' (the page is not cross-origin isolated: one is all it gets)';
  const threads = `${numThreads} thread${numThreads === 1 ? '' : 's'}${alone}`;
  $('status').textContent = `Ready: onnxruntime-web ${ort.env.versions.web}, WebAssembly, ${threads}.`;
  $('case').replaceChildren(element('option', 'choose…', { value: '' }));
  for (const one of state.version.cases) $('case').append(element('option', one.id, { value: one.file }));
  ready(true);
}

function ready(is) {
  for (const id of ['run', 'check', 'version']) $(id).disabled = !is;
}

/** What the signature says, as a table, and the fields of the form. */
function lay({ signature, model, versions }) {
  document.title = model;
  $('name').textContent = model;
  for (const [side, specs] of [['input', signature.inputs], ['output', signature.outputs]]) {
    for (const spec of specs) {
      const row = element('tr');
      row.append(element('td', side), element('td'), element('td', spec.dtype), element('td', `[${spec.shape.join(', ')}]`));
      row.children[1].append(element('code', spec.name));
      $('signature').append(row);
    }
  }
  $('ranges').textContent = signature.dims.map((dim) => `${dim.name} from ${dim.min} to ${dim.max}`).join(', ');
  for (const { name, min, max } of signature.dims) {
    if (!signature.inputs.some((spec) => spec.shape.includes(name))) continue;
    const label = element('label', `${name} `);
    label.append(element('input', '', { type: 'number', id: `size-${name}`, min, max, value: Math.max(min, 1) }));
    $('sizes').append(label);
  }
  for (const spec of signature.inputs) $('inputs').append(card(spec));
  for (const { number } of versions) $('version').append(element('option', String(number), { value: number }));
  $('versions').hidden = versions.length < 2;
}

/** The field of one input: a file to choose or drop, and the values as text. */
function card(spec) {
  const made = element('div', '', { class: 'card', 'data-input': spec.name });
  const file = element('input', '', { type: 'file', accept: '.npy,.npz,.json', 'aria-label': `file for ${spec.name}` });
  const text = element('textarea', '', { 'aria-label': `values of ${spec.name}`, spellcheck: 'false' });
  const details = element('details');
  details.append(element('summary', 'Values as JSON, nested by axis'), text);
  made.append(element('h3', spec.name), element('p', '', { class: 'soft' }), file, details);
  file.addEventListener('change', () => take(spec, file.files[0]));
  text.addEventListener('input', () => state.edited.add(spec.name));
  made.addEventListener('dragover', (event) => { event.preventDefault(); made.classList.add('over'); });
  made.addEventListener('dragleave', () => made.classList.remove('over'));
  made.addEventListener('drop', (event) => {
    event.preventDefault();
    made.classList.remove('over');
    take(spec, event.dataTransfer.files[0]);
  });
  return made;
}

/** Puts an array into an input's field. */
function put(spec, array, origin) {
  state.feeds[spec.name] = array;
  state.edited.delete(spec.name);
  const made = document.querySelector(`[data-input="${CSS.escape(spec.name)}"]`);
  made.querySelector('p').textContent = `${described(array)}, ${origin}. Choose or drop a .npy, .npz or .json file.`;
  made.querySelector('textarea').value = textOf(array);
}

/** A file that somebody chose or dropped. */
async function take(spec, file) {
  if (!file) return;
  await guarded(async () => {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (file.name.endsWith('.npy')) return put(spec, npy(bytes), file.name);
    if (!file.name.endsWith('.npz')) return put(spec, parsed(spec, new TextDecoder().decode(bytes)), file.name);
    const arrays = await npz(bytes);
    const found = arrays[spec.name] ?? arrays[`inputs/${spec.name}`];
    if (!found) throw new Error(`${file.name} has no array ${spec.name}`);
    return put(spec, found, file.name);
  });
}

/** Fills all inputs by `value(dtype)`, in the sizes of the form. */
function fill(value, origin) {
  for (const spec of state.record.signature.inputs) {
    const shape = spec.shape.map((dim) => (typeof dim === 'number' ? dim : Number($(`size-${dim}`).value)));
    if (shape.some((size) => !Number.isInteger(size) || size < 0)) throw new Error('a size is a whole number');
    put(spec, filled(spec.dtype, shape, () => value(spec.dtype)), origin);
  }
}

/** A number that most models take: 0 or 1 where it may be an index, else from 0 to 1. */
const random = (dtype) => (dtype.startsWith('float') ? Math.random() : Math.floor(Math.random() * 2));

/** Does something and shows what goes wrong. */
async function guarded(work) {
  fail();
  try {
    return await work();
  } catch (error) {
    return fail(error);
  }
}

async function chooseCase(path) {
  if (!path) return;
  const arrays = await npz(await get(path));
  for (const spec of state.record.signature.inputs) put(spec, arrays[`inputs/${spec.name}`], path.split('/').at(-1));
}

async function run() {
  $('answer').replaceChildren();
  for (const spec of state.record.signature.inputs.filter(({ name }) => state.edited.has(name))) {
    const text = document.querySelector(`[data-input="${CSS.escape(spec.name)}"] textarea`).value;
    put(spec, parsed(spec, text), 'typed');
  }
  const start = performance.now();
  const answer = await ask(state.feeds);
  showAnswer($('answer'), answer, performance.now() - start, element);
}

async function check() {
  ready(false);
  const body = $('rows').tBodies[0];
  body.replaceChildren();
  $('rows').hidden = false;
  $('verdict').className = '';
  $('verdict').textContent = 'Asking…';
  delete $('verdict').dataset.verdict;
  let wrong = 0;
  try {
    for await (const { case: id, output, fine, said } of checked(state.record, state.version, get, ask)) {
      wrong += fine ? 0 : 1;
      const row = element('tr');
      row.append(element('td', fine ? 'ok' : 'FAIL', { class: fine ? 'good' : 'bad' }));
      row.append(...[id, output, said].map((text) => element('td', text)));
      body.append(row);
    }
    $('verdict').textContent = summary(state.version, wrong);
    $('verdict').className = wrong ? 'bad' : 'good';
    $('verdict').dataset.verdict = wrong ? 'fail' : 'pass';
  } catch (error) {
    $('verdict').textContent = '';
    throw error;
  } finally {
    ready(true);
  }
}

async function start() {
  state.record = await json('handoff.json');
  state.openings = (await json('web.json')).versions;
  lay(state.record);
  const numbers = state.record.versions.map((version) => version.number);
  const asked = Number(location.hash.slice(1));
  const number = numbers.includes(asked) ? asked : Math.max(...numbers);
  $('version').value = String(number);
  fill(random, 'random');
  $('form').addEventListener('submit', (event) => { event.preventDefault(); guarded(run); });
  $('random').addEventListener('click', () => guarded(() => fill(random, 'random')));
  $('zeros').addEventListener('click', () => guarded(() => fill(() => 0, 'zeros')));
  $('case').addEventListener('change', () => guarded(() => chooseCase($('case').value)));
  $('check').addEventListener('click', () => guarded(check));
  $('version').addEventListener('change', () => {
    location.hash = $('version').value; // WebAssembly threads are made once in a page: another version, another page
    location.reload();
  });
  ort = await import(ENGINE).catch(() => {
    throw new Error('onnxruntime-web is not there: run npm ci --ignore-scripts in the folder and load the page again');
  });
  await open(number);
}

start().catch((error) => {
  $('status').textContent = 'The model is not loaded.';
  fail(error);
});
