cat > input.jsonl <<'END'
{"custom_id": "tides", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Why are there tides?"}]}}
{"custom_id": "trains", "method": "POST", "url": "/v1/chat/completions", "body": {"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "What is a night train?"}]}}
END
api=http://127.0.0.1:7400/v1
file=$(curl -s $api/files -F purpose=batch -F file=@input.jsonl | sed 's/.*"id":"\([^"]*\).*/\1/')
batch=$(curl -s $api/batches -H 'Content-Type: application/json' \
  -d '{"input_file_id": "'$file'", "endpoint": "/v1/chat/completions", "completion_window": "24h"}' |
  sed 's/.*"id":"\([^"]*\).*/\1/')
sleep 1
curl -s $api/batches/$batch; echo
curl -s $api/batches/$batch/results
