"""Requests of all clients: admitted, given to a thread that suits them, answered. Knows neither gRPC nor protobuf."""
