"""`python -m fullconv`: the command `fullconv-score`."""

from fullconv.command.cli import main

main()
