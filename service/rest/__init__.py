"""The Open Inference Protocol over HTTP: JSON and binary tensors become the messages of the gRPC service."""
