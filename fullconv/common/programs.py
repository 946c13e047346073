"""Loads the programs beside the library, `service` and `converter`, when they are first needed.

`import fullconv` and `Client` work without them, and beside other packages of these names. Scoring in this process and
conversion need the programs of this distribution, which are installed next to the package `fullconv`.
"""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

HOME = Path(__file__).resolve().parents[2]
"""The directory that holds `fullconv`, `service` and `converter`."""


class MisplacedProgramError(ImportError):
    """Python finds another package called `service` or `converter`, or no such package."""


def load_program(module: str) -> ModuleType:
    """Import a module of `service` or `converter`, such as "service.local", and return it.

    Raises MisplacedProgramError if Python finds another package with that name first, which is not imported, or no such
    package.
    """
    name = module.partition(".")[0]
    found = find_spec(name)
    if found is None:
        raise MisplacedProgramError(
            f"{name}: expected the package of fullconv in {HOME}, got none; install the whole distribution"
        )
    places = [Path(place).resolve() for place in found.submodule_search_locations or ()]
    if HOME / name not in places:
        got = places[0] if places else found.origin
        raise MisplacedProgramError(
            f"{name}: expected the package of fullconv in {HOME}, got {got}, which Python finds first; run from "
            "another directory, or rename that package"
        )
    return import_module(module)
