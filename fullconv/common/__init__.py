"""What the client, the service and the converter share. Imports nothing else of theirs but the generated stubs."""
