"""Scoring in this process, without a server.

scorer = Scorer("models")
answer = scorer.score("page.png", model="digits", grid=True)
"""

from os import PathLike
from pathlib import Path

from fullconv.base import BaseScorer
from fullconv.common.programs import load_program
from fullconv.options import check_timeout


class Scorer(BaseScorer):
    """Scores images in this process, with the models of a repository. Its calls are the same as those of `Client`."""

    def __init__(self, models: str | PathLike[str] = "models", *, timeout: float | None = None) -> None:
        """Open a model repository. Each model is loaded when it is first used.

        Args:
            models: Directory of the repository, which holds NAME/VERSION/. Default: `models` in the working directory.
            timeout: Seconds that a call may take; checked after every batch of tiles. Default: no limit.

        Raises:
            RequestError: There is no such directory, or the timeout is invalid.
            MisplacedProgramError: Python finds another package called `service` before that of fullconv.
        """
        check_timeout(timeout)
        super().__init__(load_program("service.local").LocalTransport(Path(models), timeout))
