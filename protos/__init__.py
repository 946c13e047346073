"""The messages that converter, service and client share; `make proto` generates the `*_pb2*` modules."""
