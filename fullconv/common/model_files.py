"""File names of a converted model, and the key of its ModelSpec, on which converter and service must agree.

ROOT/NAME/VERSION/model.onnx  model.stride16.onnx  model.shared16.onnx  weights.data  labels.txt  report.json
"""

import re

SPEC_KEY = "fullconv.model_spec"
"""Key of the ModelSpec's JSON in an ONNX file's metadata."""
SPEC_VERSION = 1

MODEL, WEIGHTS, LABELS, REPORT = "model.onnx", "weights.data", "labels.txt", "report.json"
STRIDE_MODEL = "model.stride{}.onnx"
"""File name of the network of another stride, in pixels."""
SHARED_MODEL = "model.shared{}.onnx"
"""File name of the network of mode shared for the multiples of a stride in pixels."""
CUT_MODEL = "model.margins{}.onnx"
"""File name of the network of mode shared whose margins are cut off at a number of cells."""
CUT_NAME = re.compile(r"model\.margins[0-9]+\.onnx")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
COLOUR = re.compile(r"(#[0-9a-f]{6})?")
"""Matches the colour of a class, or none."""
VERSION = re.compile(r"[1-9][0-9]{0,8}")
