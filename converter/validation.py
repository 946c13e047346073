"""One line out of pydantic's many."""

from pydantic import ValidationError


def first_problem(error: ValidationError) -> str:
    """Say where the first problem is, what is wrong, and what was got."""
    problem = error.errors()[0]
    where = ".".join(str(step) for step in problem["loc"]) or "file"
    return f"{where}: {problem['msg']}, got {str(problem['input'])[:60]!r}"
