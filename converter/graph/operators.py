"""Operators that more than one pass must know, by their names in the ONNX specification."""

ELEMENTWISE = frozenset(
    (
        "Abs", "Cast", "Ceil", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
        "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
        "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
    )
)  # fmt: skip
"""One number in, one number out; what further inputs there are (Clip's bounds) are single numbers."""

ARITHMETIC = frozenset(
    (
        "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
        "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Xor",
    )
)  # fmt: skip
"""Values of one shape, or of shapes that broadcast."""

MOVEMENT = frozenset(
    (
        "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape",
        "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
"""Elements put elsewhere, repeated or left out, zeros put between; the numbers stay what they are."""

REDUCTIONS = frozenset(
    ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare")
)
"""One number of all along some axes."""

WINDOWED = frozenset(("AveragePool", "Conv", "LpPool", "MaxPool"))
"""A kernel that slides over the map."""
