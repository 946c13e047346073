"""`python -m service.batch`, the command of the image for jobs."""

from service.batch.cli import main

main()
