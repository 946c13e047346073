"""Loads an ONNX file with the runtime of its backend, for the threads in which its tiles run."""

from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock

from service import machine
from service.engine import measurement_cache
from service.engine.backend import REFERENCE, Backend
from service.engine.executable import Executable
from service.engine.onnx_runtime import OnnxRuntimeExecutable
from service.engine.repository import StoredModel
from service.engine.version_files import model_path
from service.errors import ModelError
from service.log import log


@dataclass(frozen=True)
class Threads:
    """The threads in which networks compute."""

    count: int = field(default_factory=machine.cores)
    """Number of threads in which a network computes. Default: one for each physical core."""
    single_bytes: float = 0.0
    """Bytes of activations of a tile up to which its run computes in the calling thread alone, with ONNX Runtime on the
    CPU. The scores then depend neither on the number of threads nor on the other tiles of a run.

    As many such runs as there are threads compute more together than one run in all threads, which wait for each other
    at the end of each layer. Default: measurements decide, if runs are measured.
    """

    def single_of(self, backend: Backend) -> float:
        """Return the bytes of activations of a tile up to which its run may compute in one thread; 0: not known."""
        return self.single_bytes if backend.provider == REFERENCE.provider and self.count > 1 else 0.0


class Executables:
    """An ONNX file that is loaded for runs in all threads, for runs in one thread, or for both when both are needed.

    Several threads may use it at the same time.
    """

    def __init__(self, model: StoredModel, position: int, backend: Backend, threads: Threads) -> None:
        self._model, self._position, self._backend, self._threads = model, position, backend, threads
        self._loaded, self._loading = dict[bool, Executable](), Lock()

    def get(self, *, single: bool) -> Executable:
        """Return the file as loaded for runs in one thread, or in all; raises ModelError."""
        with self._loading:
            if single not in self._loaded:
                self._loaded[single] = self._load(1 if single else self._threads.count)
            return self._loaded[single]

    def forget_single(self) -> None:
        """Free the file as loaded for runs in one thread."""
        with self._loading:
            self._loaded.pop(True, None)

    def loaded(self) -> list[Executable]:
        """Return what was loaded so far."""
        with self._loading:
            return [*self._loaded.values()]

    def _load(self, threads: int) -> Executable:
        file = self._model.folder / self._model.files[self._position]
        try:
            return self._load_file(file, threads)
        except ImportError as missing:
            raise ModelError(f"{model_path(file)}: {missing}") from None
        except Exception as error:  # each stage of loading raises errors of another class
            log.error("model", extra={"record": {"file": str(file), "error": str(error)}})
            raise ModelError(
                f"{model_path(file)}: {self._backend.provider} cannot load it; convert the model again"
            ) from None

    def _load_file(self, file: Path, threads: int) -> Executable:
        """Load a file; raises an error of the runtime, or ImportError."""
        if self._backend.provider == "openvino":
            from service.engine.openvino_runtime import OpenVinoExecutable  # noqa: PLC0415 (an extra)

            return OpenVinoExecutable(file, self._backend, threads=threads)
        engines = ""
        if self._backend.provider == "tensorrt":
            engines = measurement_cache.key(self._model, self._position, str(self._backend))
        return OnnxRuntimeExecutable(file, self._backend, threads=threads, engines=engines)
