"""The HTTP server: limits and timeouts around uvicorn, and a port that several processes share."""
