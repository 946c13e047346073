"""What the client, the service and the converter share. It imports nothing else of theirs but the generated stubs."""
