"""Caffe networks: a .caffemodel, which holds the weights, with the prototxt that says what the layers do."""
