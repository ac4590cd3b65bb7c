// Receives messages of a daemon and verifies them with published libraries, exactly as its users
// would.
//
// OPENAI_BASE_URL and OPENAI_API_KEY come from the environment; the daemon sends the headers of
// Standard Webhooks. Prints a line that starts with "OK" when everything held.

import assert from 'node:assert/strict';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import OpenAI, { toFile } from 'openai';
import * as standard from 'standardwebhooks';
import * as svix from 'svix';

const BASE = process.env.OPENAI_BASE_URL;
const MODEL = 'simulated-instant';
const client = new OpenAI({ maxRetries: 0, timeout: 60_000 });

const received = [];
const server = createServer(async (request, response) => {
  const pieces = [];
  for await (const piece of request) pieces.push(piece);
  received.push({ headers: request.headers, body: Buffer.concat(pieces).toString() });
  response.writeHead(204).end();
  server.emit('message');
});
server.listen(0, '127.0.0.1');
await once(server, 'listening');
const url = `http://127.0.0.1:${server.address().port}/hook`;

async function nextMessage() {
  while (received.length === 0) await once(server, 'message', { signal: AbortSignal.timeout(30_000) });
  return received.shift();
}

async function call(method, path, body) {
  const answer = await fetch(BASE + path, {
    method,
    headers: { 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  assert.ok(answer.ok, `${method} ${path}: ${answer.status} ${await answer.clone().text()}`);
  return answer.json();
}

// All libraries read the same, and none accepts another secret.
async function verify(secret, { headers, body }) {
  const told = new standard.Webhook(secret).verify(body, headers);
  new svix.Webhook(secret).verify(body, headers);
  assert.deepEqual(told, await client.webhooks.unwrap(body, headers, secret));
  const other = `whsec_${Buffer.alloc(32).toString('base64')}`;
  assert.throws(() => new standard.Webhook(other).verify(body, headers));
  assert.throws(() => new svix.Webhook(other).verify(body, headers));
  await assert.rejects(client.webhooks.unwrap(body, headers, other));
  return told;
}

const endpoint = await call('POST', '/webhook-endpoints', { url, events: ['batch.completed'] });
for (let count = 0; count < 24; count += 1) {
  const { signing_secret: secret } = await call('POST', `/webhook-endpoints/${endpoint.id}/rotate-secret`);
  assert.ok((await call('POST', `/webhook-endpoints/${endpoint.id}/test`)).ok);
  assert.equal((await verify(secret, await nextMessage())).type, 'webhook.test');
}

const row = { model: MODEL, messages: [{ role: 'user', content: 'Say hello.' }] };
const line = JSON.stringify({ custom_id: 'a', method: 'POST', url: '/v1/chat/completions', body: row });
for (const secret of [`whsec_${randomBytes(24).toString('base64')}`, `whsec_${randomBytes(32).toString('base64')}`]) {
  await call('PUT', '/auth/account/delivery-webhook', { url, secret });
  const file = await client.files.create({ file: await toFile(Buffer.from(line), 'in.jsonl'), purpose: 'batch' });
  const batch = await client.batches.create({
    input_file_id: file.id,
    endpoint: '/v1/chat/completions',
    completion_window: '24h',
  });
  const event = await verify(secret, await nextMessage());
  assert.deepEqual([event.object, event.type, event.data.id], ['event', 'batch.completed', batch.id]);
}

server.close();
const packages = createRequire(import.meta.url);
const versions = ['openai', 'standardwebhooks', 'svix'].map((name) => {
  const main = packages.resolve(name);
  const root = main.slice(0, main.lastIndexOf(`node_modules/${name}/`) + `node_modules/${name}/`.length);
  return `${name} ${packages(`${root}package.json`).version}`;
});
console.log('OK', versions.join(', '));
