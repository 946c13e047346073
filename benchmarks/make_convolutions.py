"""Makes service/engine/convolutions.onnx, with which a server measures in how many threads networks compute fastest.

    python benchmarks/make_convolutions.py

The graph has two convolutions of 3×3 with 128 channels, as the middle of VGG-16 has. The file is small: its weights are
one value that is repeated.
"""

import onnx
from onnx import TensorProto, helper

from service.engine.thread_count import CONVOLUTIONS, INPUT_SHAPE

LAYERS = 2
OPSET = 17


def main() -> None:
    """Write the file."""
    channels = INPUT_SHAPE[1]
    weight = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.01])
    shape = helper.make_tensor("shape", TensorProto.INT64, [4], [channels, channels, 3, 3])
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["weight"], value=weight)]
    for layer in range(LAYERS):
        names = ([f"map{layer}", "weight"], [f"map{layer + 1}"])
        nodes.append(helper.make_node("Conv", *names, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    inputs, outputs = (
        [helper.make_tensor_value_info(f"map{layer}", TensorProto.FLOAT, INPUT_SHAPE)] for layer in (0, LAYERS)
    )
    graph = helper.make_graph(nodes, "convolutions", inputs, outputs, [shape])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, CONVOLUTIONS)


if __name__ == "__main__":
    main()
