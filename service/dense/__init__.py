"""The pure core: lattice, tiles, reducers. Only numpy: no gRPC, no ONNX Runtime, no input or output."""
