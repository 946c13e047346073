"""Access to the programs beside the library, `service` and `converter`, which are loaded only when they are needed.

The library works without them, and beside other folders of these names. Scoring in this process and conversion need
the programs of this distribution, which lie next to the package `fullconv`.
"""

from importlib import import_module
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).resolve().parents[2]
"""The directory that holds `fullconv`, `service` and `converter`."""


class MisplacedProgramError(ImportError):
    """Python finds another package of a program's name, or none."""


def load_program(module: str) -> ModuleType:
    """Import a module of `service` or `converter`, such as "service.local".

    Raises MisplacedProgramError if Python finds another package of that name first, or none.
    """
    name = module.partition(".")[0]
    try:
        package = import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise MisplacedProgramError(
            f"{name}: expected the package of fullconv in {HOME}, got none: install the whole distribution"
        ) from None
    places = [Path(place).resolve() for place in getattr(package, "__path__", [])]
    if HOME / name not in places:
        got = places[0] if places else getattr(package, "__file__", "a module without a file")
        raise MisplacedProgramError(
            f"{name}: expected the package of fullconv in {HOME}, got {got}, which Python finds first: run from "
            "another directory, or rename that package"
        )
    return import_module(module)
