"""Receives messages of a daemon and verifies them with published libraries, exactly as its users would.

OPENAI_BASE_URL and OPENAI_API_KEY come from the environment; the daemon sends the headers of Standard
Webhooks. Prints a line that starts with "OK" when everything held.
"""

import base64
import http.server
import importlib.metadata
import json
import os
import queue
import secrets
import threading
import urllib.request

import standardwebhooks
import svix.webhooks
from openai import InvalidWebhookSignatureError, OpenAI
from phaseo import verify_async_webhook_signature

BASE = os.environ["OPENAI_BASE_URL"]
MODEL = "simulated-instant"
client = OpenAI(max_retries=0)
received = queue.Queue()


class Receiver(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        received.put((dict(self.headers.items()), body))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()
URL = f"http://127.0.0.1:{server.server_port}/hook"


def call(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(BASE + path, data, {"content-type": "application/json"}, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


def next_message():
    return received.get(timeout=30)


def of_standard_webhooks(secret, headers, body):
    """Verifies a message with each library that knows Standard Webhooks; all read the same."""
    told = standardwebhooks.Webhook(secret).verify(body, headers)
    svix.webhooks.Webhook(secret).verify(body, headers)
    client.webhooks.verify_signature(body, headers, secret=secret)
    assert told == json.loads(body), told
    other = "whsec_" + base64.b64encode(bytes(32)).decode()
    for library in (standardwebhooks.Webhook(other).verify, svix.webhooks.Webhook(other).verify):
        try:
            library(body, headers)
        except standardwebhooks.WebhookVerificationError:
            continue
        raise AssertionError("a signature under another secret was accepted")
    return told


def managed(count):
    """Secrets of a managed endpoint verify with Phaseo's helper and with all others."""
    endpoint = call("POST", "/webhook-endpoints", {"url": URL, "events": ["batch.completed"]})
    path = f"/webhook-endpoints/{endpoint['id']}"
    for _ in range(count):
        secret = call("POST", f"{path}/rotate-secret")["signing_secret"]
        assert call("POST", f"{path}/test")["ok"]
        headers, body = next_message()
        assert verify_async_webhook_signature(secret=secret, body=body, headers=headers), (secret, headers)
        assert not verify_async_webhook_signature(secret=secret + "x", body=body, headers=headers)
        assert of_standard_webhooks(secret, headers, body)["type"] == "webhook.test"
    batch = call("POST", "/batches", {"model": f"batchd/{MODEL}", "prompts": ["One?"], "webhook_endpoint_id": endpoint["id"]})
    headers, body = next_message()
    assert verify_async_webhook_signature(secret=secret, body=body, headers=headers), headers
    told = of_standard_webhooks(secret, headers, body)
    assert (told["type"], told["data"]["id"]) == ("batch.completed", batch["id"]), told


def row(custom_id):
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello."}]}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body})


def of_organisation(secret, is_standard):
    """OpenAI's own client unwraps the event of a batch that it made, with the organisation's secret."""
    call("PUT", "/auth/account/delivery-webhook", {"url": URL, "secret": secret})
    file = client.files.create(file=("in.jsonl", row("a").encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    headers, body = next_message()
    event = client.webhooks.unwrap(body, headers, secret=secret)
    batch = client.batches.retrieve(batch.id)
    assert (event.object, event.type, event.data.id) == ("event", "batch.completed", batch.id), event
    assert (event.id, event.created_at) == (headers["webhook-id"], batch.completed_at), (event, headers)
    assert type(event).__name__ == "BatchCompletedWebhookEvent", type(event)
    if is_standard:
        assert of_standard_webhooks(secret, headers, body)["id"] == event.id
    try:
        client.webhooks.unwrap(body + b" ", headers, secret=secret)
    except InvalidWebhookSignatureError:
        return
    raise AssertionError("an altered body was accepted")


managed(24)
of_organisation("whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(), True)
of_organisation("whsec_" + base64.b64encode(secrets.token_bytes(32)).decode(), True)
of_organisation("a long shared secret that is no base64", False)
of_organisation(base64.b64encode(secrets.token_bytes(32)).decode(), True)
names = ["openai", "phaseo", "standardwebhooks", "svix"]
print("OK", ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names))
