"""An HTTP server: route table, validation, OpenAPI, event streams. Independent of the edge's API."""
