"""Networks whose checkpoints are recognised: TOML files of layers, and fingerprints of tensors."""
