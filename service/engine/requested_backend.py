"""The provider and the precision that a user asks for.

requested provider and precision → backends of this machine → backend of each file (choice.py)
"""

from dataclasses import dataclass
from functools import cache

from fullconv.common.names import PRECISIONS, PrecisionName, ProviderName
from service.engine.backend import Backend, Precision, Provider

REQUIRES = {
    "openvino": "install the extra 'openvino' (pip install openvino)",
    "cuda": "install onnxruntime-gpu in place of onnxruntime",
    "tensorrt": "install onnxruntime-gpu in place of onnxruntime, and TensorRT",
}
"""How to get each provider that the base installation does not have."""
TRIED: tuple[Provider, ...] = ("cuda", "openvino", "cpu")
"""The providers among which `auto` chooses. TensorRT is not among them: it takes minutes to load a network."""


class MissingBackendError(Exception):
    """This machine does not have the requested provider or precision."""


@dataclass(frozen=True)
class RequestedBackend:
    """The provider and the precision that a user asks for; "auto" leaves the choice to measurements."""

    provider: ProviderName = "auto"
    precision: PrecisionName = "auto"

    def backends(self) -> list[Backend]:
        """Return the backends of this machine that match the request.

        Raises MissingBackendError if a package is missing, or the provider or the processor lacks the precision.
        """
        if self.provider == "auto":
            found = [backend for provider in TRIED if is_installed(provider) for backend in self._of(provider)]
            if not found:
                named: Provider = "openvino" if self.precision in PRECISIONS["openvino"] else "tensorrt"
                required, way_out = f"--provider {named}", REQUIRES[named]
                if is_installed(named):
                    required, way_out = "a processor with its instructions", "leave it out"
                raise MissingBackendError(f"precision: {self.precision} requires {required}; {way_out}")
            return found
        if not is_installed(self.provider):
            raise MissingBackendError(f"provider: {self.provider} is not installed; {REQUIRES[self.provider]}")
        found = self._of(self.provider)
        if not found:
            raise MissingBackendError(
                f"precision: expected {' or '.join(_supported(self.provider))} with provider {self.provider} on this "
                f"machine, got {self.precision}; leave it out"
            )
        return found

    def _of(self, provider: Provider) -> list[Backend]:
        """Return the backends of a provider, the fastest precision first."""
        return [Backend(provider, each) for each in reversed(_supported(provider)) if self.precision in ("auto", each)]


@cache
def is_installed(provider: Provider) -> bool:
    """Return whether a provider can be loaded."""
    if provider == "openvino":
        return _openvino_precisions() is not None
    from service.engine.onnx_runtime import has_provider  # noqa: PLC0415 (it takes long to import)

    return has_provider(provider)


def _supported(provider: Provider) -> tuple[Precision, ...]:
    """Return the precisions that a provider computes on this machine, the slowest first."""
    return _openvino_precisions() or () if provider == "openvino" else PRECISIONS[provider]


@cache
def _openvino_precisions() -> tuple[Precision, ...] | None:
    """Return the precisions of OpenVINO on this processor; None if it is not installed, or cannot be loaded."""
    try:
        from service.engine.openvino_runtime import computes_bf16  # noqa: PLC0415 (an extra)

        return PRECISIONS["openvino"] if computes_bf16() else ("fp32",)
    except Exception:  # a damaged installation raises errors of many classes
        return None
