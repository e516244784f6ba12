"""The edge's API on the HTTP server: envelope, API keys, idempotency store, stream sources."""
