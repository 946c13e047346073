"""The converter's rewrites of a graph: one pass a file, each with the contract of onnx-ir's passes."""
