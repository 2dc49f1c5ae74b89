// Replays the reference with onnxruntime-node and holds every answer to its limit.
//
//     node run.mjs [--version N] [--verbose]
//
// Exit status: 0 every answer is within its limit, 1 one is not, 2 usage, 4 the engine cannot run or open the model,
// 5 a file of this folder is not the one that was handed over. --verbose lets the engine tell what it was opened with.

import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';

import { checked, firstLine, summary } from './check.mjs';
import { asked, openedInNode } from './model.mjs';

const HERE = dirname(fileURLToPath(import.meta.url));
const file = (path) => readFile(join(HERE, path));
const json = async (path) => JSON.parse(await file(path));

/** The first file that is not the one that was handed over; empty when all are. */
async function changed(record) {
  for (const [path, digest] of Object.entries(record.files)) {
    const bytes = await file(path).catch(() => null);
    if (bytes === null || createHash('sha256').update(bytes).digest('hex') !== digest) return path;
  }
  return '';
}

/** The arguments, or null after a line that says what is wrong with them. */
function given(numbers) {
  try {
    const { values } = parseArgs({ options: { version: { type: 'string' }, verbose: { type: 'boolean' } } });
    const number = values.version === undefined ? Math.max(...numbers) : Number(values.version);
    if (!numbers.includes(number)) throw new Error(`a version is one of ${numbers.join(', ')}`);
    return { number, verbose: values.verbose ?? false };
  } catch (error) {
    console.error(`${firstLine(error)}; usage: node run.mjs [--version N] [--verbose]`);
    return null;
  }
}

/** The engine and the opened model, or null after a line that says why not. */
async function engine(opening, verbose) {
  try {
    const { default: ort } = await import('onnxruntime-node');
    const session = verbose ? { ...opening.session, logSeverityLevel: 1 } : opening.session;
    const opened = await openedInNode(ort, { ...opening, session }, join(HERE, opening.model));
    return { ort, session: opened };
  } catch (error) {
    const hint = error.code === 'ERR_MODULE_NOT_FOUND' ? '; run npm ci --ignore-scripts in this folder first' : '';
    console.error(`onnxruntime-node cannot run it: ${firstLine(error)}${hint}`);
    return null;
  }
}

async function main() {
  const record = await json('handoff.json');
  const wanted = given(record.versions.map((version) => version.number));
  if (wanted === null) return 2;
  const other = await changed(record);
  if (other) {
    console.error(`${other} is not the file that was handed over`);
    return 5;
  }
  const opening = (await json('web.json')).versions[wanted.number];
  const run = await engine(opening, wanted.verbose);
  if (run === null) return 4;
  const version = record.versions.find((one) => one.number === wanted.number);
  let wrong = 0;
  for await (const row of checked(record, version, file, (feeds) => asked(run.ort, run.session, record.signature, feeds))) {
    wrong += row.fine ? 0 : 1;
    console.log(`${row.fine ? 'ok  ' : 'FAIL'}  ${row.case.padEnd(20)} ${row.output.padEnd(16)} ${row.said}`);
  }
  console.log(summary(version, wrong));
  return wrong ? 1 : 0;
}

process.exitCode = await main().catch((error) => {
  console.error(`it could not be asked: ${firstLine(error)}`);
  return 4;
});
