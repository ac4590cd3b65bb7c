api=http://127.0.0.1:7400/v1
order='"items": [{"customer_item_id": "ticket-7", "operation": "responses", "model": "gpt-4o-mini",
  "input": {"messages": [{"role": "user", "content": "Label the sentiment: Great, it broke again."}]}}]'
quote=$(curl -s $api/quotes/model -H 'Content-Type: application/json' -d "{$order}" | grep -o 'qlock_[0-9a-f]*' | head -1)
batch=$(curl -s $api/batches -H 'Content-Type: application/json' -H 'Idempotency-Key: first-order' \
  -d '{"quote_id": "'$quote'", '"$order"'}' | grep -o 'bat_[0-9a-f]*' | head -1)
sleep 1
curl -s $api/batches/$batch/results
