"""Why a conversion stops.

    ConversionError
    ├── OptionError         an option is wrong, whatever the source
    ├── SourceError         the source cannot be read, or is not what it must be
    ├── UnsupportedError    the network has no known fully-convolutional form
    ├── VerificationError   the converted network does not agree with its source
    └── OutputError         the result cannot be written

Each message is one line: what and where, expected, got, and the way out.
"""


class ConversionError(Exception):
    """Base of everything below."""


class OptionError(ConversionError):
    """An option is invalid; `option` is the name of the parameter, `problem` describes the error."""

    def __init__(self, option: str, problem: str) -> None:
        super().__init__(f"{option}: {problem}")
        self.option, self.problem = option, problem


class SourceError(ConversionError):
    """The source, or a file that describes it, cannot be used."""


class UnsupportedError(ConversionError):
    """The network, or a node in it, has no known fully-convolutional form."""


class VerificationError(ConversionError):
    """The converted network's scores differ from its source's."""


class OutputError(ConversionError):
    """The result cannot be written where it should be."""
