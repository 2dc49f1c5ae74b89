// Arrays as text in the page: what somebody types, and what is shown of an answer.

import { filled } from './model.mjs';
import { values } from './npz.mjs';

const MOST_TYPED = 4096;
const ROWS = 8;
const COLUMNS = 12;

/** `float32 [2, 3]` */
export const described = ({ dtype, shape }) => `${dtype} [${shape.join(', ')}]`;

/** Nested JSON of an array, or nothing where that is too long to edit. */
export function textOf(array) {
  if (array.data.length > MOST_TYPED) return '';
  const plain = Array.from(values(array), (value) => (typeof value === 'bigint' ? String(value) : whole(value, array.dtype)));
  const nested = (axis, from, size) => {
    if (axis === array.shape.length) return plain[from];
    const step = array.shape[axis] ? size / array.shape[axis] : 0;
    const parts = Array.from({ length: array.shape[axis] }, (_, index) => nested(axis + 1, from + index * step, step));
    return `[${parts.join(axis === array.shape.length - 1 ? ', ' : ',\n')}]`;
  };
  return nested(0, 0, plain.length);
}

/** The array that nested JSON means, in an input's dtype. Throws an Error that says what is wrong with the text. */
export function parsed(spec, text) {
  // 64-bit integers are kept as text: JSON.parse would round them
  const exact = /^u?int64$/.test(spec.dtype) ? text.replace(/(?<![\w.+"-])-?\d+(?![\w.])/g, '"$&"') : text;
  let tree;
  try {
    tree = JSON.parse(exact);
  } catch {
    throw new Error(`the values of ${spec.name} are no JSON: write nested lists of numbers`);
  }
  const shape = [];
  for (let part = tree; Array.isArray(part); [part] = part) shape.push(part.length);
  const flat = [];
  const walk = (part, axis) => {
    if (axis === shape.length) return flat.push(scalar(part, spec));
    if (!Array.isArray(part) || part.length !== shape[axis]) throw new Error(`the lists of ${spec.name} are not even`);
    for (const inner of part) walk(inner, axis + 1);
    return 0;
  };
  walk(tree, 0);
  return filled(spec.dtype, shape, (index) => flat[index]);
}

function scalar(part, { name, dtype }) {
  const wrong = () => new Error(`${JSON.stringify(part)} is no ${dtype}, as ${name} wants`);
  if (Array.isArray(part)) throw new Error(`the lists of ${name} are not even`);
  if (dtype === 'bool') {
    if (typeof part === 'boolean' || part === 0 || part === 1) return Number(part);
    throw wrong();
  }
  if (/^u?int64$/.test(dtype)) {
    if (typeof part !== 'string' || !/^-?\d+$/.test(part)) throw wrong();
    return within(BigInt(part), dtype, wrong);
  }
  if (typeof part !== 'number') throw wrong();
  return dtype.startsWith('float') ? part : within(part, dtype, wrong);
}

/** An integer that its dtype can hold. */
function within(value, dtype, wrong) {
  const bits = BigInt(dtype.replace(/\D/g, ''));
  if (typeof value === 'number' && !Number.isInteger(value)) throw wrong();
  const low = dtype.startsWith('u') ? 0n : -(1n << (bits - 1n));
  const high = dtype.startsWith('u') ? (1n << bits) - 1n : (1n << (bits - 1n)) - 1n;
  if (value < low || value > high) throw wrong();
  return value;
}

/** The shortest text that is read back as the same value. */
function whole(value, dtype) {
  if (dtype !== 'float32') return String(value);
  let figures = 6; // nine are enough for any float32
  while (figures < 9 && Math.fround(Number(value.toPrecision(figures))) !== value) figures++;
  return String(Number(value.toPrecision(figures)));
}

/** A number in six figures. */
const shown = (value) => (Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(6))));

/** Shows the outputs: the beginning of each, the largest value of a row marked. */
export function showAnswer(place, answer, milliseconds, element) {
  place.append(element('p', `Answered in ${milliseconds.toFixed(1)} ms.`, { class: 'soft' }));
  for (const [name, array] of Object.entries(answer)) {
    const made = element('div', '', { class: 'card', 'data-output': name });
    const wide = element('div', '', { class: 'wide' });
    wide.append(table(array, element));
    made.append(element('h3', name), element('p', described(array), { class: 'soft' }), wide);
    place.append(made);
  }
}

function table(array, element) {
  const width = array.shape.length ? array.shape.at(-1) : 1;
  const all = values(array);
  const made = element('table');
  const rows = width ? all.length / width : 0;
  const head = element('tr');
  for (let index = 0; index < Math.min(width, COLUMNS); index++) {
    head.append(element('th', String(index), { class: 'number', scope: 'col' }));
  }
  if (width > 1) made.append(head);
  for (let row = 0; row < Math.min(rows, ROWS); row++) {
    const line = Array.from(all.slice(row * width, (row + 1) * width));
    const most = line.reduce((best, value, index) => (value > line[best] ? index : best), 0);
    const cells = line.slice(0, COLUMNS).map((value, index) =>
      element('td', typeof value === 'bigint' ? String(value) : shown(value), {
        class: `number${index === most && width > 1 ? ' most' : ''}`,
      }),
    );
    if (width > COLUMNS) cells.push(element('td', `… ${width} in all; the largest is number ${most}`, { class: 'soft' }));
    made.append(element('tr'));
    made.lastChild.append(...cells);
  }
  if (rows > ROWS) made.append(element('caption', `The first ${ROWS} of ${rows} rows.`));
  return made;
}
