"""Drives a daemon with the published Phaseo SDK, exactly as its users would.

The base URL is the only argument: the SDK does not read it from the environment. Prints a line that starts
with "OK" when everything held.
"""

import base64
import http.server
import importlib.metadata
import json
import sys
import threading
import time
import urllib.error

from gen import operations as ops
from phaseo import Phaseo, verify_async_webhook_signature

MODEL = "batchd/simulated-instant"
ENDED = {"completed", "failed", "expired", "cancelled"}

client = Phaseo(api_key="phaseo_v1_sk_abcdefghijkl_a-secret", base_url=sys.argv[1])


def wait(batch):
    for _ in range(1200):
        batch = client.batches.retrieve(batch["id"])
        if batch["status"] in ENDED:
            return batch
        time.sleep(0.05)
    raise AssertionError(f"not ended: {batch}")


def results(batch):
    return [json.loads(line) for line in b"".join(client.batches.stream_results(batch["id"])).splitlines()]


def models():
    listed = client.batches.list_models()["data"]
    assert MODEL in [each["model"] for each in listed], listed
    some = client.request("GET", "/batches/models", query={"params": ["endpoint", "completion_window"]})
    assert len(some["data"]) == len(listed)


def prompts():
    batch = client.batches.create(
        {"model": MODEL, "prompts": ["One?", "Two?"], "system": "Be brief.", "max_tokens": 64, "session_id": "run-7", "metadata": {"job": "geo"}}
    )
    assert batch["session_id"] == "run-7" and batch["metadata"]["phaseo_batch_id"] == batch["id"], batch
    batch = wait(batch)
    assert batch["status"] == batch["lifecycle_status"] == "completed" and batch["progress"] == 100, batch
    lines = results(batch)
    assert [line["custom_id"] for line in lines] == ["request-1", "request-2"], lines
    assert all(line["response"]["status_code"] == 200 for line in lines), lines
    rows = ops.listBatchRequests(client.raw_client, path={"batch_id": batch["id"]}, query={"status": "completed"})
    assert [row["custom_id"] for row in rows["data"]] == ["request-1", "request-2"], rows
    assert batch["id"] in [each["id"] for each in client.batches.list({"status": ["completed"], "limit": 5})["data"]]
    url = client.batches.websocket_url(batch["id"], interval_ms=1500, close_on_terminal=False)
    assert url.startswith("ws://") and batch["id"] in url, url


def requests():
    rows = [{"custom_id": f"r{n}", "body": {"messages": [{"role": "user", "content": "hello"}]}} for n in range(20)]
    batch = wait(client.batches.create({"model": MODEL, "endpoint": "/v1/chat/completions", "requests": rows}))
    assert batch["request_counts"] == {"total": 20, "completed": 20, "failed": 0}, batch
    assert [line["custom_id"] for line in results(batch)] == [f"r{n}" for n in range(20)]
    try:
        client.batches.create({"model": MODEL, "requests": []})
    except urllib.error.HTTPError as error:
        told = json.load(error)
        assert (error.code, told["error"], told["reason"]) == (400, "validation_error", "invalid_requests"), told
    else:
        raise AssertionError("an empty array was taken")


def messages():
    batch = wait(client.batches.create({"model": MODEL, "endpoint": "/v1/messages", "prompts": ["One?"], "system": "Be brief."}))
    [line] = results(batch)
    answer = line["response"]["body"]
    assert answer["type"] == "message" and answer["content"][0]["type"] == "text", answer


def files():
    body = {"model": MODEL, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}
    text = "".join(json.dumps({"custom_id": f"f{n}", "method": "POST", "url": "/v1/chat/completions", "body": body}) + "\n" for n in range(3))
    for content in [text, "data:application/jsonl;base64," + base64.b64encode(text.encode()).decode()]:
        file = client.files.create({"purpose": "batch", "file": content})
        assert client.files.retrieve(file["id"])["bytes"] == len(text), file
        assert client.files.content(file["id"]) == text.encode()
        batch = wait(client.batches.create({"input_file_id": file["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}))
        assert batch["request_counts"]["completed"] == 3, batch
    assert client.files.list()["object"] == "list"


def cancel():
    slow = [{"body": {"messages": [{"role": "user", "content": "x"}], "metadata": {"simulate": "latency=5s"}}} for _ in range(3)]
    batch = client.batches.cancel(client.batches.create({"model": MODEL, "endpoint": "/v1/chat/completions", "requests": slow})["id"])
    assert batch["status"] in {"cancelling", "cancelled"}, batch
    assert wait(batch)["status"] == "cancelled"
    assert client.batches.cancel(batch["id"])["status"] == "cancelled"


def webhooks():
    heard = []

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            heard.append((dict(self.headers.items()), self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/hook"
    endpoint = ops.createWebhookEndpoint(client.raw_client, body={"url": url, "events": ["batch.created", "batch.completed"]})
    batch = wait(client.batches.create({"model": MODEL, "prompts": ["One?"], "webhook_endpoint_id": endpoint["id"]}))
    for _ in range(200):
        if len(heard) == 2:
            break
        time.sleep(0.05)
    assert sorted(json.loads(body)["type"] for _, body in heard) == ["batch.completed", "batch.created"], heard
    for headers, body in heard:
        assert verify_async_webhook_signature(secret=endpoint["signing_secret"], body=body, headers=headers), headers
        assert not verify_async_webhook_signature(secret=endpoint["signing_secret"], body=body + b" ", headers=headers)
        assert json.loads(body)["data"]["id"] == batch["id"]
    server.shutdown()


for part in (models, prompts, requests, messages, files, cancel, webhooks):
    part()
    print(part.__name__, flush=True)
print(f"OK phaseo {importlib.metadata.version('phaseo')}")
