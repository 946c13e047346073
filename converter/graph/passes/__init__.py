"""The converter's rewrites of a graph: one pass per file, each with the contract of onnx-ir's passes."""
