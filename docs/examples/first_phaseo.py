import json
import time

from phaseo import Phaseo

client = Phaseo(base_url="http://127.0.0.1:7400/v1", api_key="phaseo_v1_sk_none")

batch = client.batches.create({
    "model": "gpt-5.4-mini", "endpoint": "/v1/chat/completions", "max_tokens": 64,
    "prompts": ["Why are there tides?", "What is a night train?"],
})
while batch["status"] not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.5)
    batch = client.batches.retrieve(batch["id"])

print(batch["status"], batch["request_counts"], batch["billing"]["cost_usd"])
for line in b"".join(client.batches.stream_results(batch["id"])).strip().split(b"\n"):
    row = json.loads(line)
    print(row["custom_id"], row["response"]["body"]["choices"][0]["message"]["content"])
