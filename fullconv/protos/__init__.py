"""Python stubs that `make proto` generates from the files in protos/."""
