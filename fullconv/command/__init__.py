"""The command `fullconv-score`: its options, the scoring of each image, tables and progress."""
