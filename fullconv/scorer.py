"""Scoring in this process, without a server.

scorer = Scorer("models")
answer = scorer.score("page.png", model="digits", grid=True)
"""

from os import PathLike
from pathlib import Path

from fullconv.base import BaseScorer
from fullconv.common.names import PrecisionName, ProviderName
from fullconv.common.programs import load_program
from fullconv.options import check_tile_mib, check_timeout


class Scorer(BaseScorer):
    """Scores images in this process, with the models of a repository. Its calls are the same as those of `Client`."""

    def __init__(
        self,
        models: str | PathLike[str] = "models",
        *,
        timeout: float | None = None,
        provider: ProviderName = "auto",
        precision: PrecisionName = "auto",
        tile_mib: int | None = None,
    ) -> None:
        """Open a model repository. Each model is loaded when it is first used.

        Args:
            models: Directory of the repository, which holds NAME/VERSION/. Default: `models` in the working directory.
            timeout: Seconds that a call may take; checked after every batch of tiles. Default: no limit.
            provider: Runtime of the networks: "cpu" (ONNX Runtime), "openvino", "cuda" or "tensorrt". Default: "auto",
                the fastest that is installed, as measured when a model is first loaded; never tensorrt.
            precision: Number format of computation, "fp32", "bf16" or "fp16". Default: "auto", the fastest whose scores
                agree with those of fp32; then mode "exact" and `min_agreement` use fp32 on the CPU.
            tile_mib: Largest memory for the activations of one tile, in MiB. Smaller tiles need more time, because
                their halos repeat work. Default: a sixth of the memory of the machine or container, at most 4096.

        Raises:
            RequestError: There is no such directory, the timeout or `tile_mib` is invalid, or this machine does not
                have the provider or the precision.
            MisplacedProgramError: Python finds another package called `service` before that of fullconv.
        """
        check_timeout(timeout)
        check_tile_mib(tile_mib)
        local = load_program("service.local")
        super().__init__(
            local.LocalTransport(Path(models), timeout, provider=provider, precision=precision, tile_mib=tile_mib)
        )
