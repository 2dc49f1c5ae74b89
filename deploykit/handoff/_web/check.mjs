// Holds answers to the reference that travels with the folder; what check.py is for targets with a server.

import { npz, values } from './npz.mjs';
import { Refused } from './model.mjs';

/** Whether one output is within its limit, and a text for the table.
 *  `limit` is the largest root mean square error to the model in float64; null asks for equality. */
export function judged(expected, actual, dtype, limit) {
  if (actual.dtype !== dtype) return [false, `${actual.dtype} instead of ${dtype}`];
  if (actual.shape.join() !== expected.shape.join()) {
    return [false, `shape [${actual.shape.join(', ')}] instead of [${expected.shape.join(', ')}]`];
  }
  const right = values(expected);
  const found = values(actual);
  if (limit === null) {
    let wrong = 0;
    // == and not ===: a BigInt and a number of the same value are equal
    for (let index = 0; index < right.length; index++) wrong += right[index] == found[index] ? 0 : 1;
    return [wrong === 0, wrong ? `${wrong} of ${right.length} values differ` : 'equal'];
  }
  let sum = 0;
  for (let index = 0; index < right.length; index++) {
    const one = Number(found[index]);
    if (!Number.isFinite(one)) return [false, 'not finite'];
    sum += (one - Number(right[index])) ** 2;
  }
  const error = right.length ? Math.sqrt(sum / right.length) : 0;
  return [error <= limit, `error ${figure(error)}, limit ${figure(limit)}`];
}

/** Three figures, as check.py of other targets prints them. */
const figure = (value) => (value && value < 1e-4 ? value.toExponential(2) : value.toPrecision(3));

/** Replays all cases of a version; yields { case, output, fine, said } for each output.
 *  `get` gives a file of the folder as bytes, `ask` the answer to arrays by name. */
export async function* checked(record, version, get, ask) {
  const dtypes = Object.fromEntries(record.signature.outputs.map((spec) => [spec.name, spec.dtype]));
  let feeds = null;
  for (const one of version.cases) {
    const arrays = await npz(await get(one.file));
    feeds = Object.fromEntries(record.inputs.map((name) => [name, arrays[`inputs/${name}`]]));
    let answer = null;
    try {
      answer = await ask(feeds);
    } catch (error) {
      yield { case: one.id, output: '', fine: false, said: firstLine(error) };
      continue;
    }
    for (const [name, limit] of Object.entries(one.limits)) {
      const [fine, said] = Object.hasOwn(answer, name)
        ? judged(arrays[`expected/${name}`], answer[name], dtypes[name], limit)
        : [false, 'missing in the answer'];
      yield { case: one.id, output: name, fine, said };
    }
  }
  const fixed = record.inputs.find((name) => record.fixed_last[name]);
  if (fixed && feeds) yield { case: 'wrong shape', output: fixed, ...(await wrongIsRefused(feeds, fixed, ask)) };
}

/** Whether an input with one value too many in its last axis is refused. */
async function wrongIsRefused(feeds, name, ask) {
  const { dtype, shape, data } = feeds[name];
  const wide = [...shape.slice(0, -1), shape.at(-1) + 1];
  const more = new data.constructor(wide.reduce((product, size) => product * size, 1));
  try {
    await ask({ ...feeds, [name]: { dtype, shape: wide, data: more } });
  } catch (error) {
    return { fine: error instanceof Refused, said: `refused: ${firstLine(error)}` };
  }
  return { fine: false, said: 'answered as if nothing were wrong' };
}

/** The first line of what an error says. */
export const firstLine = (error) => String(error?.message ?? error).split('\n')[0];

/** The line below the table. */
export function summary(version, wrong) {
  const said = wrong ? `${wrong} wrong` : 'all answers within their limits';
  return `${version.cases.length} cases: ${said}`;
}
