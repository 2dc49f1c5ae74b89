// Arrays that numpy wrote: .npy and .npz files as { dtype, shape, data }, `data` being a typed array in C order.
// Layouts: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html and APPNOTE.TXT of the zip format.

const KINDS = {
  b1: ['bool', Uint8Array],
  i1: ['int8', Int8Array],
  i2: ['int16', Int16Array],
  i4: ['int32', Int32Array],
  i8: ['int64', BigInt64Array],
  u1: ['uint8', Uint8Array],
  u2: ['uint16', Uint16Array],
  u4: ['uint32', Uint32Array],
  u8: ['uint64', BigUint64Array],
  f2: ['float16', Uint16Array], // the bits: not every engine has Float16Array
  f4: ['float32', Float32Array],
  f8: ['float64', Float64Array],
};

/** The typed array that holds a dtype's values, or its bits for float16. */
export const ARRAYS = Object.fromEntries(Object.values(KINDS));

/** Number of elements of a shape. */
export const count = (shape) => shape.reduce((product, size) => product * size, 1);

/** One .npy file. Throws an Error that says what is wrong with it. */
export function npy(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || view.getUint32(0) !== 0x934e554d || view.getUint16(4) !== 0x5059) {
    throw new Error('not a .npy file');
  }
  const long = bytes[6] > 1;
  const start = long ? 12 : 10;
  const end = start + (long ? view.getUint32(8, true) : view.getUint16(8, true));
  const header = new TextDecoder().decode(bytes.subarray(start, end));
  const found = /'descr': *'([<|>=])(\w+)', *'fortran_order': *(True|False), *'shape': *\(([\d, ]*)\)/.exec(header);
  if (!found) throw new Error(`a .npy header of a form that is not read here: ${header.trim().slice(0, 120)}`);
  const [, order, kind, fortran, dims] = found;
  if (!(kind in KINDS) || order === '>') throw new Error(`arrays of ${order}${kind} are not read here`);
  const [dtype, Typed] = KINDS[kind];
  const shape = dims.split(',').filter((text) => text.trim()).map(Number);
  const size = count(shape) * Typed.BYTES_PER_ELEMENT;
  if (end + size > bytes.length) throw new Error('a .npy file that ends too early');
  const data = new Typed(new Uint8Array(bytes.subarray(end, end + size)).buffer); // a copy: they may lie at an odd address
  return { dtype, shape, data: fortran === 'True' ? transposed(data, shape) : data };
}

/** Values in Fortran order put into C order. */
function transposed(data, shape) {
  const out = new data.constructor(data.length);
  const index = shape.map(() => 0);
  for (const value of data) {
    out[index.reduce((at, here, axis) => at * shape[axis] + here, 0)] = value;
    for (let axis = 0; axis < shape.length && ++index[axis] === shape[axis]; axis++) index[axis] = 0;
  }
  return out;
}

/** All arrays of an .npz file by name, as numpy.load names them. */
export async function npz(bytes) {
  const found = {};
  for (const { name, packed, method } of entries(bytes)) {
    if (name.endsWith('.npy')) found[name.slice(0, -4)] = npy(method === 8 ? await inflated(packed) : packed);
  }
  return found;
}

/** The files of a zip archive, read from its central directory. */
function* entries(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = bytes.length - 22;
  while (at >= 0 && view.getUint32(at, true) !== 0x06054b50) at--;
  if (at < 0) throw new Error('not an .npz file');
  let place = view.getUint32(at + 16, true);
  for (let left = view.getUint16(at + 10, true); left > 0; left--) {
    if (place + 46 > bytes.length || view.getUint32(place, true) !== 0x02014b50) throw new Error('a damaged .npz file');
    const method = view.getUint16(place + 10, true);
    const size = view.getUint32(place + 20, true);
    const named = view.getUint16(place + 28, true);
    const local = view.getUint32(place + 42, true);
    const name = new TextDecoder().decode(bytes.subarray(place + 46, place + 46 + named));
    if (method !== 0 && method !== 8) throw new Error(`${name} is packed in a way that is not read here`);
    if (size === 0xffffffff || local + 30 > bytes.length) throw new Error(`${name} is larger than is read here`);
    const data = local + 30 + view.getUint16(local + 26, true) + view.getUint16(local + 28, true);
    yield { name, method, packed: bytes.subarray(data, data + size) };
    place += 46 + named + view.getUint16(place + 30, true) + view.getUint16(place + 32, true);
  }
}

async function inflated(packed) {
  const plain = new Blob([packed]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(plain).arrayBuffer());
}

/** The values as something that arithmetic and comparison take: float16 bits become numbers. */
export function values({ dtype, data }) {
  return dtype === 'float16' && data instanceof Uint16Array ? Float64Array.from(data, half) : data;
}

function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + fraction / 1024) : 2 ** -14 * (fraction / 1024));
}

/** The float16 bits next to a number, ties to even, as numpy rounds. */
export function halfBits(number) {
  const sign = number < 0 || Object.is(number, -0) ? 0x8000 : 0;
  const size = Math.abs(number);
  if (Number.isNaN(number)) return 0x7e00;
  if (size >= 65520) return sign | 0x7c00;
  const exponent = Math.max(-14, Math.floor(Math.log2(size || 2 ** -24)));
  const scaled = size / 2 ** (exponent - 10);
  const low = Math.floor(scaled);
  const rest = scaled - low;
  const whole = low + (rest > 0.5 || (rest === 0.5 && low % 2 === 1) ? 1 : 0);
  return sign | (((exponent + 14) << 10) + whole); // a carry out of the fraction lands in the exponent, as it should
}
