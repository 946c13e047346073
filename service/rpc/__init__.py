"""gRPC: decode, await, encode."""
