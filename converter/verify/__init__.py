"""Proof: the converted network against its source, on real-looking images."""
