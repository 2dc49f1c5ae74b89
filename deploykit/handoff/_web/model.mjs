// The model as an object that takes arrays by name and gives arrays by name; the same for the page and for Node.
// An array is { dtype, shape, data } as in npz.mjs.

import { ARRAYS, count, halfBits } from './npz.mjs';

/** An input that the model does not take: a name, a dtype, a shape or a number of values that does not fit. */
export class Refused extends Error {}

/** Throws Refused unless these arrays fit the signature of handoff.json; gives the sizes of the symbolic dims. */
export function fits(signature, feeds) {
  const names = signature.inputs.map((spec) => spec.name);
  const strange = Object.keys(feeds).filter((name) => !names.includes(name));
  const missing = names.filter((name) => !Object.hasOwn(feeds, name));
  if (strange.length) throw new Refused(`there is no input ${strange[0]}; the model takes ${names.join(', ')}`);
  if (missing.length) throw new Refused(`the input ${missing[0]} is missing`);
  const sizes = new Map();
  for (const spec of signature.inputs) {
    const { dtype, shape, data } = feeds[spec.name];
    const wanted = `${spec.name} is ${spec.dtype} [${spec.shape.join(', ')}]`;
    if (dtype !== spec.dtype) throw new Refused(`${wanted}, and this is ${dtype}`);
    const same = shape.length === spec.shape.length && spec.shape.every((dim, axis) => {
      if (typeof dim === 'number') return dim === shape[axis];
      if (!sizes.has(dim)) sizes.set(dim, shape[axis]);
      return sizes.get(dim) === shape[axis];
    });
    if (!same) throw new Refused(`${wanted}, and this has the shape [${shape.join(', ')}]`);
    if (data.length !== count(shape)) throw new Refused(`${wanted}, and there are ${data.length} values`);
  }
  for (const { name, min, max } of signature.dims) {
    if (sizes.has(name) && !(sizes.get(name) >= min && sizes.get(name) <= max)) {
      throw new Refused(`${name} is from ${min} to ${max}, and this is ${sizes.get(name)}`);
    }
  }
  return sizes;
}

/** Opens one version in a page. `get` gives a file of the folder as bytes. */
export async function openedInPage(ort, opening, get) {
  const threads = opening.session.intraOpNumThreads;
  if (threads !== undefined) ort.env.wasm.numThreads = threads;
  const files = Object.entries(opening.external);
  const externalData = await Promise.all(files.map(async ([path, file]) => ({ path, data: await get(file) })));
  const more = externalData.length ? { externalData } : {};
  const options = { ...opening.session, executionProviders: ['wasm'], ...more };
  return ort.InferenceSession.create(await get(opening.model), options);
}

/** Opens one version in Node, from its file: external data lies beside it. */
export async function openedInNode(ort, opening, path) {
  return ort.InferenceSession.create(path, { ...opening.session, executionProviders: ['cpu'] });
}

/** One answer. Throws Refused before the engine sees what does not fit. */
export async function asked(ort, session, signature, feeds) {
  fits(signature, feeds);
  const tensors = {};
  for (const { name } of signature.inputs) {
    const { dtype, shape, data } = feeds[name];
    tensors[name] = new ort.Tensor(dtype, data, shape);
  }
  const answer = {};
  for (const [name, tensor] of Object.entries(await session.run(tensors))) {
    answer[name] = { dtype: tensor.type, shape: [...tensor.dims], data: tensor.data };
  }
  return answer;
}

/** An array filled by `value(index)`, a number for each element. */
export function filled(dtype, shape, value) {
  const data = new ARRAYS[dtype](count(shape));
  const big = data instanceof BigInt64Array || data instanceof BigUint64Array;
  const cast = dtype === 'float16' ? halfBits : big ? BigInt : Number;
  for (let index = 0; index < data.length; index++) data[index] = cast(value(index));
  return { dtype, shape, data };
}
