"""The command `fullconv-score`: options, a job over the images, tables and progress."""
