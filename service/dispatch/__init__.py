"""Admits the requests of all clients, chooses their threads, and answers them. Depends on neither gRPC nor protobuf."""
