"""Drives a daemon with the official Python SDK, exactly as its users would.

OPENAI_BASE_URL and OPENAI_API_KEY come from the environment. Prints a line that starts with "OK"
when everything held.
"""

import hashlib
import importlib.metadata
import json
import os
import tempfile
import time
import urllib.request
from pathlib import Path

import openai
from batch_openai import BatchJob
from openai import OpenAI

MODEL = "simulated-instant"
CHAT = "/v1/chat/completions"
ENDED = {"completed", "failed", "expired", "cancelled"}

client = OpenAI(max_retries=0, timeout=60)


def row(custom_id, model=MODEL, **extra):
    body = {"model": model, "messages": [{"role": "user", "content": "Say hello."}], **extra}
    return json.dumps({"custom_id": custom_id, "method": "POST", "url": CHAT, "body": body})


def jsonl(rows):
    return ("\n".join(rows) + "\n").encode()


def upload(content, **extra):
    return client.files.create(file=("in.jsonl", content), purpose="batch", **extra)


def create(file, **extra):
    return client.batches.create(input_file_id=file.id, endpoint=CHAT, completion_window="24h", **extra)


def wait(batch, limit=60):
    end = time.monotonic() + limit
    while batch.status not in ENDED:
        assert time.monotonic() < end, f"not ended within {limit} s: {batch}"
        time.sleep(0.05)
        batch = client.batches.retrieve(batch.id)
    return batch


def raises(kind, call, code=None):
    try:
        call()
    except kind as error:
        assert type(error) is kind, f"{type(error)} instead of {kind}"
        assert error.request_id, "an error carries the request id"
        assert error.body and error.body["message"], error.body
        if code is not None:
            assert error.code == code, f"{error.code} instead of {code}: {error}"
        return error
    raise AssertionError(f"no {kind.__name__}")


def files():
    content = jsonl([row(f"r{n}") for n in range(10)])
    file = upload(content, expires_after={"anchor": "created_at", "seconds": 3600})
    assert (file.object, file.bytes, file.filename, file.purpose) == ("file", len(content), "in.jsonl", "batch"), file
    assert file.expires_at == file.created_at + 3600, file
    assert client.files.retrieve(file.id) == file
    assert client.files.content(file.id).content == content
    with client.files.with_streaming_response.content(file.id) as response:
        assert b"".join(response.iter_bytes(64)) == content
    assert client.files.wait_for_processing(file.id).status == "processed"

    more = [upload(b"{}\n") for _ in range(6)]
    expected = [each.id for each in reversed(more)] + [file.id]
    assert [each.id for each in client.files.list()] == expected
    assert [each.id for each in client.files.list(limit=2)] == expected, "pages follow one another"
    assert [each.id for each in client.files.list(limit=3, order="asc", purpose="batch")] == expected[::-1]
    assert list(client.files.list(purpose="vision")) == []

    gone = client.files.delete(more[0].id)
    assert (gone.id, gone.deleted, gone.object) == (more[0].id, True, "file")
    raises(openai.NotFoundError, lambda: client.files.retrieve(more[0].id), "not_found")
    raises(openai.NotFoundError, lambda: client.files.content(more[0].id), "not_found")
    raises(openai.BadRequestError, lambda: client.files.create(file=b"x", purpose="nonsense"), "invalid_value")
    raises(openai.BadRequestError, lambda: client.files.list(limit=0), "invalid_value")


def uploads():
    content = jsonl([row(f"r{n}") for n in range(50)])
    begun = client.uploads.create(filename="in.jsonl", purpose="batch", bytes=len(content), mime_type="application/jsonl")
    assert (begun.object, begun.status, begun.bytes) == ("upload", "pending", len(content)), begun
    second = client.uploads.parts.create(begun.id, data=content[1000:])
    first = client.uploads.parts.create(begun.id, data=content[:1000])
    assert (first.object, first.upload_id) == ("upload.part", begun.id)
    done = client.uploads.complete(begun.id, part_ids=[first.id, second.id], md5=hashlib.md5(content).hexdigest())
    assert done.status == "completed" and done.file is not None, done
    assert client.files.content(done.file.id).content == content
    assert wait(create(done.file)).status == "completed"

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "chunked.jsonl"
        path.write_bytes(content)
        done = client.uploads.upload_file_chunked(file=path, mime_type="application/jsonl", purpose="batch", part_size=777)
    assert done.status == "completed" and done.file.filename == "chunked.jsonl", done
    assert client.files.content(done.file.id).content == content

    begun = client.uploads.create(filename="x", purpose="batch", bytes=1, mime_type="text/plain")
    assert client.uploads.cancel(begun.id).status == "cancelled"
    raises(openai.ConflictError, lambda: client.uploads.parts.create(begun.id, data=b"x"), "conflict")
    raises(openai.NotFoundError, lambda: client.uploads.cancel("upload_00000000000000000000000000"), "not_found")


def batches():
    file = upload(jsonl([row(f"r{n}") for n in range(20)] + [row("bad", metadata={"simulate": "refuse"})]))
    batch = create(file, metadata={"team": "search"}, output_expires_after={"anchor": "created_at", "seconds": 3600})
    assert batch.object == "batch" and batch.metadata == {"team": "search"}, batch
    batch = wait(batch)
    assert batch.status == "completed", batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (21, 20, 1), batch
    assert batch.usage.total_tokens == batch.usage.input_tokens + batch.usage.output_tokens > 0, batch
    assert batch.created_at <= batch.in_progress_at <= batch.completed_at <= batch.expires_at, batch

    lines = [json.loads(line) for line in client.files.content(batch.output_file_id).text.strip().split("\n")]
    assert [line["custom_id"] for line in lines] == [f"r{n}" for n in range(20)]
    for line in lines:
        # What the SDK itself would make of a direct answer.
        answer = openai.types.chat.ChatCompletion.model_validate(line["response"]["body"])
        assert answer.choices[0].message.role == "assistant" and answer.usage.total_tokens > 0
    errors = [json.loads(line) for line in client.files.content(batch.error_file_id).text.splitlines()]
    assert [(line["custom_id"], line["response"]["status_code"]) for line in errors] == [("bad", 400)], errors
    output = client.files.retrieve(batch.output_file_id)
    assert output.purpose == "batch_output" and output.expires_at == output.created_at + 3600, output

    small = upload(jsonl([row("only")]))
    made = [create(small).id for _ in range(5)]
    assert [each.id for each in client.batches.list(limit=2)][:5] == made[::-1]
    assert client.batches.list(limit=3).has_more

    bad = wait(create(upload(jsonl([row("a"), "not json", row("a", model="no-such-model")]))))
    assert bad.status == "failed", bad
    places = [(each.line, each.code) for each in bad.errors.data]
    assert (2, "invalid_json_line") in places and (3, "duplicate_custom_id") in places, places

    slow = create(upload(jsonl([row(f"r{n}", metadata={"simulate": "latency=5s"}) for n in range(3)])))
    cancelled = client.batches.cancel(slow.id)
    assert cancelled.status in {"cancelling", "cancelled"}, cancelled
    cancelled = wait(cancelled)
    assert cancelled.status == "cancelled" and cancelled.cancelled_at is not None, cancelled
    raises(openai.ConflictError, lambda: client.batches.cancel(slow.id), "conflict")

    raises(openai.NotFoundError, lambda: client.batches.retrieve("batch_00000000000000000000000000"), "not_found")
    error = raises(
        openai.BadRequestError,
        lambda: client.batches.create(input_file_id=small.id, endpoint="/v1/nonsense", completion_window="24h"),
        "invalid_value",
    )
    assert error.param == "endpoint" and error.type == "invalid_request_error", error.body

    key = {"Idempotency-Key": "python-1"}
    once = create(small, extra_headers=key)
    assert create(small, extra_headers=key).id == once.id
    raises(openai.ConflictError, lambda: create(small, metadata={"other": "body"}, extra_headers=key), "idempotency_key_reused")


def line_ends():
    """Readers that end a line at other characters than a line feed read the files all the same."""
    ends = "one\u2028two\u2029three\x85four"
    # The simulated model writes what the schema prescribes.
    schema = {"type": "object", "properties": {"a": {"enum": [ends]}}, "required": ["a"]}
    asked = {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}}
    ids = [f"{end}row {n}" for n, end in enumerate(("", "\u2028", "\x85"))]
    rows = [row(id, **asked) for id in ids] + [row("bad\u2029", metadata={"simulate": "refuse"})]
    batch = wait(create(upload(jsonl(rows))))
    assert (batch.request_counts.completed, batch.request_counts.failed) == (3, 1), batch

    output = client.files.content(batch.output_file_id)
    # The SDK's own reader of lines, which is httpx' reader.
    for lines in (list(output.iter_lines()), output.text.splitlines()):
        assert [json.loads(line)["custom_id"] for line in lines] == ids, lines
    answer = json.loads(output.text.split("\n")[0])["response"]["body"]["choices"][0]["message"]["content"]
    assert json.loads(answer) == {"a": ends}, answer
    with client.files.with_streaming_response.content(batch.output_file_id) as response:
        assert [json.loads(line)["custom_id"] for line in response.iter_lines()] == ids
    assert client.files.retrieve(batch.output_file_id).bytes == len(output.content)

    # A published client that reads both files with `str.splitlines`.
    read = BatchJob.from_id(client, batch.id).wait(poll_interval=0.1)
    assert {each.custom_id for each in read.succeeded} == set(ids), read
    assert [each.custom_id for each in read.failed] == ["bad\u2029"], read


def models():
    listed = {each.id: each for each in client.models.list()}
    assert {"gpt-4o-mini", "text-embedding-3-small", MODEL} <= set(listed), sorted(listed)
    assert client.models.retrieve("gpt-4o-mini") == listed["gpt-4o-mini"]
    raises(openai.NotFoundError, lambda: client.models.retrieve("no-such-model"), "model_not_found")


def batchrouter():
    """A batch of BatchRouter's, made in its own way, polled and read at the path that it has for this SDK."""
    root, key = os.environ["OPENAI_BASE_URL"].rsplit("/v1", 1)[0], "br_live_0123456789abcdef01234567"
    items = [{"customer_item_id": f"item-{n}", "operation": "responses", "model": MODEL,
              "input": {"messages": [{"role": "user", "content": "hello"}]}} for n in range(3)]

    def native(path, body):
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json", "idempotency-key": "python-batchrouter"}
        request = urllib.request.Request(f"{root}/v1{path}", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)

    quote = native("/quotes/model", {"items": items})
    batch_id = native("/batches", {"quote_id": quote["quote_id"], "items": items})["batch"]["id"]
    there = openai.OpenAI(base_url=f"{root}/v1/openai/v1", api_key=key)
    for _ in range(600):
        batch = there.batches.retrieve(batch_id)
        if batch.status in {"completed", "failed", "expired", "cancelled"}:
            break
        time.sleep(0.05)
    assert (batch.status, batch.request_counts.completed) == ("completed", 3), batch
    lines = [json.loads(line) for line in there.files.content(batch.output_file_id).text.splitlines()]
    assert [line["custom_id"] for line in lines] == ["item-0", "item-1", "item-2"], lines
    assert all(line["response"]["body"]["choices"] for line in lines), lines
    assert batch.id in [each.id for each in there.batches.list()]


for part in (files, uploads, batches, line_ends, models, batchrouter):
    part()
    print(part.__name__, flush=True)
print(f"OK openai {importlib.metadata.version('openai')}")
