"""Verification of a conversion: the converted network is compared with its source on images."""
