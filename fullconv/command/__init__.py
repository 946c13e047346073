"""The command `fullconv-score`: its options, what it does with each image, tables and progress."""
