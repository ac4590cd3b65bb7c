import json
import time

from openai import OpenAI

client = OpenAI(base_url="http://127.0.0.1:7400/v1", api_key="none")

with open("input.jsonl", "rb") as rows:
    file = client.files.create(file=rows, purpose="batch")
batch = client.batches.create(
    input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h"
)
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.5)
    batch = client.batches.retrieve(batch.id)

print(batch.status, batch.request_counts)
for line in client.files.content(batch.output_file_id).text.strip().split("\n"):
    row = json.loads(line)
    print(row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"])
