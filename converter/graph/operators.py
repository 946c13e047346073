"""Families of operators that several passes distinguish, by their names in the ONNX specification."""

ELEMENTWISE = frozenset(
    (
        "Abs", "Cast", "Ceil", "Celu", "Clip", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish",
        "IsNaN", "LeakyRelu", "Log", "Mish", "Neg", "Not", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid", "Sign",
        "Softplus", "Softsign", "Sqrt", "Swish", "Tanh", "ThresholdedRelu",
    )
)  # fmt: skip
"""Operators of one element; further inputs, such as the bounds of Clip, are single numbers."""

ARITHMETIC = frozenset(
    (
        "Add", "And", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Mean", "Min", "Mod",
        "Mul", "Or", "PRelu", "Pow", "Sub", "Sum", "Xor",
    )
)  # fmt: skip
"""Operators on the elements at the same position of several values, which have one shape or broadcast."""

MOVEMENT = frozenset(
    (
        "DepthToSpace", "Expand", "Flatten", "Gather", "GatherElements", "GatherND", "Identity", "Pad", "Reshape",
        "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze",
    )
)  # fmt: skip
"""Operators that move, repeat or leave out elements, or put zeros between them; the numbers do not change."""

REDUCTIONS = frozenset(
    ("ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum", "ReduceSumSquare")
)
"""Operators that reduce all elements along some axes to one number."""

WINDOWED = frozenset(("AveragePool", "Conv", "LpPool", "MaxPool"))
"""Operators whose kernel slides over the map."""
