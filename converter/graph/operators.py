"""Operators that more than one pass must know, by their names in the ONNX specification."""

ELEMENTWISE = frozenset(
    (
        "Abs", "Cast", "Celu", "Clip", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Log",
        "Mish", "Neg", "Relu", "Selu", "Sigmoid", "Softplus", "Softsign", "Sqrt", "Tanh", "ThresholdedRelu",
    )
)  # fmt: skip
"""One number in, one number out; what further inputs there are (Clip's bounds) are single numbers."""

ARITHMETIC = frozenset(("Add", "Div", "Max", "Min", "Mul", "Pow", "Sub"))
"""Two values of one shape, or of shapes that broadcast."""
