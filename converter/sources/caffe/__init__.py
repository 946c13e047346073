"""Reads Caffe networks: a .caffemodel with the weights, and the prototxt that describes the layers."""
