import fs from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import OpenAI from 'openai';

const client = new OpenAI({ baseURL: 'http://127.0.0.1:7400/v1', apiKey: 'none' });

const file = await client.files.create({ file: fs.createReadStream('input.jsonl'), purpose: 'batch' });
let batch = await client.batches.create({ input_file_id: file.id, endpoint: '/v1/chat/completions', completion_window: '24h' });
while (!['completed', 'failed', 'expired', 'cancelled'].includes(batch.status)) {
  await sleep(500);
  batch = await client.batches.retrieve(batch.id);
}

console.log(batch.status, batch.request_counts);
const output = await (await client.files.content(batch.output_file_id)).text();
for (const line of output.trimEnd().split('\n')) {
  const row = JSON.parse(line);
  console.log(row.custom_id, row.response.body.choices[0].message.content);
}
