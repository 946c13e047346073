"""The messages that converter, service and client share; `make proto` generates the `*_pb2*` modules."""

__version__ = "0.1.0"
"""Of everything here: it is released together."""
