"""The command `fullconv-score`: its options, the work for each image, tables and progress."""
