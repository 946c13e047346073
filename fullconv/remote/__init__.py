"""The gRPC client: connection, retries, streams."""
