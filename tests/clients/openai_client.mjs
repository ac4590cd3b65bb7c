// Drives a daemon with the official Node SDK, exactly as its users would.
//
// OPENAI_BASE_URL and OPENAI_API_KEY come from the environment. Prints a line that starts with "OK"
// when everything held.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { Readable } from 'node:stream';
import OpenAI, { toFile } from 'openai';

const MODEL = 'simulated-instant';
const CHAT = '/v1/chat/completions';
const ENDED = new Set(['completed', 'failed', 'expired', 'cancelled']);

const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });

const row = (customId, extra = {}) =>
  JSON.stringify({
    custom_id: customId,
    method: 'POST',
    url: CHAT,
    body: { model: MODEL, messages: [{ role: 'user', content: 'Say hello.' }], ...extra },
  });
const jsonl = (rows) => Buffer.from(rows.join('\n') + '\n');
const upTo = (n) => Array.from({ length: n }, (_, i) => i);
const upload = async (content, extra = {}) =>
  client.files.create({ file: await toFile(content, 'in.jsonl'), purpose: 'batch', ...extra });
const create = (file, extra = {}, options = {}) =>
  client.batches.create({ input_file_id: file.id, endpoint: CHAT, completion_window: '24h', ...extra }, options);

async function wait(batch, limit = 60_000) {
  const end = Date.now() + limit;
  while (!ENDED.has(batch.status)) {
    assert.ok(Date.now() < end, `not ended within ${limit} ms: ${JSON.stringify(batch)}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await client.batches.retrieve(batch.id);
  }
  return batch;
}

async function collect(pages) {
  const all = [];
  for await (const each of pages) all.push(each);
  return all;
}

const bytes = async (response) => Buffer.from(await (await response).arrayBuffer());

async function rejects(kind, promise, code) {
  const error = await promise.then(() => assert.fail(`no ${kind.name}`), (error) => error);
  assert.ok(error instanceof kind, `${error} instead of ${kind.name}`);
  assert.ok(error.requestID, 'an error carries the request id');
  if (code) assert.equal(error.code, code, String(error));
  return error;
}

async function files() {
  const content = jsonl(upTo(10).map((n) => row(`r${n}`)));
  const file = await upload(content, { expires_after: { anchor: 'created_at', seconds: 3600 } });
  assert.deepEqual([file.object, file.bytes, file.filename, file.purpose], ['file', content.length, 'in.jsonl', 'batch']);
  assert.equal(file.expires_at, file.created_at + 3600);
  assert.deepEqual(await client.files.retrieve(file.id), file);
  assert.deepEqual(await bytes(client.files.content(file.id)), content);

  const more = [];
  for (const _ of upTo(6)) more.push(await upload(Buffer.from('{}\n')));
  const expected = [...more.map((each) => each.id).reverse(), file.id];
  const ids = async (query) => (await collect(client.files.list(query))).map((each) => each.id);
  assert.deepEqual(await ids(), expected);
  assert.deepEqual(await ids({ limit: 2 }), expected, 'pages follow one another');
  assert.deepEqual(await ids({ limit: 3, order: 'asc', purpose: 'batch' }), [...expected].reverse());

  assert.deepEqual(
    (({ id, object, deleted }) => ({ id, object, deleted }))(await client.files.delete(more[0].id)),
    { id: more[0].id, object: 'file', deleted: true },
  );
  await rejects(OpenAI.NotFoundError, client.files.retrieve(more[0].id), 'not_found');
  await rejects(OpenAI.BadRequestError, client.files.create({ file: await toFile(content, 'x'), purpose: 'nonsense' }), 'invalid_value');
}

async function uploads() {
  const content = jsonl(upTo(50).map((n) => row(`r${n}`)));
  const begun = await client.uploads.create({
    filename: 'in.jsonl',
    purpose: 'batch',
    bytes: content.length,
    mime_type: 'application/jsonl',
  });
  assert.equal(begun.status, 'pending');
  const second = await client.uploads.parts.create(begun.id, { data: await toFile(content.subarray(1000), 'part') });
  const first = await client.uploads.parts.create(begun.id, { data: await toFile(content.subarray(0, 1000), 'part') });
  const done = await client.uploads.complete(begun.id, { part_ids: [first.id, second.id] });
  assert.equal(done.status, 'completed');
  assert.deepEqual(await bytes(client.files.content(done.file.id)), content);

  const other = await client.uploads.create({ filename: 'x', purpose: 'batch', bytes: 1, mime_type: 'text/plain' });
  assert.equal((await client.uploads.cancel(other.id)).status, 'cancelled');
  await rejects(OpenAI.ConflictError, client.uploads.parts.create(other.id, { data: await toFile(content, 'part') }), 'conflict');
}

async function batches() {
  const refused = row('bad', { metadata: { simulate: 'refuse' } });
  const file = await upload(jsonl([...upTo(20).map((n) => row(`r${n}`)), refused]));
  const batch = await wait(await create(file, { metadata: { team: 'search' } }));
  assert.equal(batch.status, 'completed', JSON.stringify(batch));
  assert.deepEqual(batch.request_counts, { total: 21, completed: 20, failed: 1 });
  assert.deepEqual(batch.metadata, { team: 'search' });

  const text = await (await client.files.content(batch.output_file_id)).text();
  const lines = text.trimEnd().split('\n').map((line) => JSON.parse(line));
  assert.deepEqual(lines.map((line) => line.custom_id), upTo(20).map((n) => `r${n}`));
  for (const line of lines) assert.equal(line.response.body.choices[0].message.role, 'assistant');
  const errors = (await (await client.files.content(batch.error_file_id)).text()).trimEnd().split('\n').map((line) => JSON.parse(line));
  assert.deepEqual(errors.map((line) => [line.custom_id, line.response.status_code]), [['bad', 400]]);

  const small = await upload(jsonl([row('only')]));
  const made = [];
  for (const _ of upTo(5)) made.unshift((await create(small)).id);
  const listed = (await collect(client.batches.list({ limit: 2 }))).map((each) => each.id);
  assert.deepEqual(listed.slice(0, 5), made);
  assert.deepEqual(listed.at(-1), batch.id);

  const bad = await wait(await create(await upload(jsonl([row('a'), 'not json', row('a')]))));
  assert.equal(bad.status, 'failed');
  assert.deepEqual(
    bad.errors.data.map((each) => [each.line, each.code]),
    [[2, 'invalid_json_line'], [3, 'duplicate_custom_id']],
  );

  const slow = await create(await upload(jsonl(upTo(3).map((n) => row(`r${n}`, { metadata: { simulate: 'latency=5s' } })))));
  const cancelled = await wait(await client.batches.cancel(slow.id));
  assert.equal(cancelled.status, 'cancelled');
  await rejects(OpenAI.ConflictError, client.batches.cancel(slow.id), 'conflict');

  await rejects(OpenAI.NotFoundError, client.batches.retrieve('batch_00000000000000000000000000'), 'not_found');
  const error = await rejects(
    OpenAI.BadRequestError,
    client.batches.create({ input_file_id: small.id, endpoint: '/v1/nonsense', completion_window: '24h' }),
    'invalid_value',
  );
  assert.equal(error.param, 'endpoint');
  assert.equal(error.type, 'invalid_request_error');

  const options = { headers: { 'Idempotency-Key': 'node-1' } };
  const once = await create(small, {}, options);
  assert.equal((await create(small, {}, options)).id, once.id);
  await rejects(OpenAI.ConflictError, create(small, { metadata: { other: 'body' } }, options), 'idempotency_key_reused');
}

// Node's own reader of lines also ends a line at U+2028 and U+2029.
async function lineEnds() {
  const ends = 'one\u2028two\u2029three\u0085four';
  const ids = ['plain', 'b\u2028', 'c\u2029'];
  // The simulated model writes what the schema prescribes.
  const schema = { type: 'object', properties: { a: { enum: [ends] } }, required: ['a'] };
  const response_format = { type: 'json_schema', json_schema: { name: 's', schema } };
  const batch = await wait(await create(await upload(jsonl(ids.map((id) => row(id, { response_format }))))));
  const response = await client.files.content(batch.output_file_id);
  const lines = await collect(createInterface({ input: Readable.fromWeb(response.body), crlfDelay: Infinity }));
  const rows = lines.map((line) => JSON.parse(line));
  assert.deepEqual(rows.map((each) => each.custom_id), ids);
  for (const each of rows) assert.deepEqual(JSON.parse(each.response.body.choices[0].message.content), { a: ends });
}

async function models() {
  const listed = new Map((await collect(client.models.list())).map((each) => [each.id, each]));
  for (const name of ['gpt-4o-mini', 'text-embedding-3-small', MODEL]) assert.ok(listed.has(name), name);
  assert.deepEqual(await client.models.retrieve('gpt-4o-mini'), listed.get('gpt-4o-mini'));
  await rejects(OpenAI.NotFoundError, client.models.retrieve('no-such-model'), 'model_not_found');
}

for (const part of [files, uploads, batches, lineEnds, models]) {
  await part();
  console.log(part.name);
}
const { version } = JSON.parse(await readFile(new URL('./node_modules/openai/package.json', import.meta.url), 'utf8'));
console.log(`OK openai ${version}`);
