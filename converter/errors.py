"""The errors of a conversion.

    ConversionError
    ├── OptionError         an option is wrong for every source
    ├── SourceError         the source cannot be read, or is not a valid classifier
    │   ├── UnknownTensorsError  its tensors are not those of a known network
    │   └── UnknownHeadError     only its head is not that of a known network
    ├── UnsupportedError    the network has no known fully-convolutional form
    ├── VerificationError   the converted network does not agree with its source
    └── OutputError         the result cannot be written

Each message is one line that names the field or node, the expected value, the actual value and the way out.
"""


class ConversionError(Exception):
    """Base class of all errors of a conversion."""


class OptionError(ConversionError):
    """An option is wrong; `option` names the parameter, `problem` describes the mistake."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option, self.problem = option, problem


class SourceError(ConversionError):
    """The source, or a file that describes it, cannot be used."""


class UnknownTensorsError(SourceError):
    """The tensors of a checkpoint are not those of the network, or of any known network."""


class UnknownHeadError(SourceError):
    """The tensors of a checkpoint do not determine what the head of its network computes."""


class UnsupportedError(ConversionError):
    """The network, or a node in it, has no known fully-convolutional form."""


class VerificationError(ConversionError):
    """The converted network's scores differ from the scores of its source."""


class OutputError(ConversionError):
    """The result cannot be written to the target."""
