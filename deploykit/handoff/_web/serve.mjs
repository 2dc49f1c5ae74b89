// A static server for the page, on this machine only: Node's standard library and nothing else.
//
//     node serve.mjs        PORT in the environment changes the port, 8000
//
// It serves the files of handoff.json and two of onnxruntime-web by exact name; there is no other way into the disk.

import { createReadStream } from 'node:fs';
import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:http';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const HERE = dirname(fileURLToPath(import.meta.url));
const ENGINE = ['ort.wasm.bundle.min.mjs', 'ort-wasm-simd-threaded.wasm'];
const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.json': 'application/json',
  '.md': 'text/markdown; charset=utf-8',
  '.mjs': 'text/javascript; charset=utf-8',
  '.wasm': 'application/wasm',
};
const HEADERS = {
  'Content-Security-Policy':
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; connect-src 'self'; img-src data:; " +
    "worker-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  // both make the page cross-origin isolated: WebAssembly threads need that
  'Cross-Origin-Opener-Policy': 'same-origin',
  'Cross-Origin-Embedder-Policy': 'require-corp',
  'Cross-Origin-Resource-Policy': 'same-origin',
  'Cache-Control': 'no-cache',
  'Referrer-Policy': 'no-referrer',
  'X-Content-Type-Options': 'nosniff',
};

const record = JSON.parse(await readFile(join(HERE, 'handoff.json'), 'utf8'));
const served = new Set([
  'handoff.json',
  ...Object.keys(record.files),
  ...ENGINE.map((name) => `node_modules/onnxruntime-web/dist/${name}`),
]);

/** The path in the folder that a request means, or empty. */
function wanted(url) {
  try {
    const path = decodeURIComponent(url.split(/[?#]/)[0]).slice(1) || 'index.html';
    return served.has(path) ? path : '';
  } catch {
    return ''; // not percent-encoding
  }
}

function refuse(response, status, text) {
  response.writeHead(status, { ...HEADERS, 'Content-Type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

async function answer(request, response) {
  // a name that somebody else's DNS points here must not read the model: see "DNS rebinding"
  if (!names.has(request.headers.host)) return refuse(response, 421, 'ask for 127.0.0.1 or localhost');
  if (request.method !== 'GET' && request.method !== 'HEAD') return refuse(response, 405, 'GET and HEAD only');
  const path = wanted(request.url);
  const file = join(HERE, path);
  const found = path ? await stat(file).catch(() => null) : null;
  if (!found?.isFile()) return refuse(response, 404, 'no such file in this folder');
  const type = TYPES[extname(path)] ?? 'application/octet-stream';
  response.writeHead(200, { ...HEADERS, 'Content-Type': type, 'Content-Length': found.size });
  if (request.method === 'HEAD') return response.end();
  return createReadStream(file).on('error', () => response.destroy()).pipe(response);
}

const port = Number(process.env.PORT || 8000);
if (!Number.isInteger(port) || port < 1 || port > 65535) {
  console.error(`PORT is ${process.env.PORT}, and a port is 1 to 65535`);
  process.exit(2);
}
const names = new Set([`127.0.0.1:${port}`, `localhost:${port}`, ...(port === 80 ? ['127.0.0.1', 'localhost'] : [])]);
const server = createServer((request, response) => {
  answer(request, response).catch(() => response.destroy());
});
server.on('error', (error) => {
  console.error(error.code === 'EADDRINUSE' ? `port ${port} is taken: set PORT to another one` : error.message);
  process.exit(4);
});
server.listen(port, '127.0.0.1', () => console.log(`${record.model} at http://127.0.0.1:${port}/ (Ctrl-C ends it)`));
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(0));
