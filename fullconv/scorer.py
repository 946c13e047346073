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
        """Take the directory of a model repository, models/NAME/VERSION/.

        models   Default: the directory `models` of the working directory.
        timeout  seconds that a call may take. Default: no limit. It is checked after every batch of tiles.

        Each model is loaded when it is first used. Raises RequestError if there is no such directory, and
        MisplacedProgramError if Python finds another package called `service` before that of fullconv.
        """
        check_timeout(timeout)
        super().__init__(load_program("service.local").LocalTransport(Path(models), timeout))
