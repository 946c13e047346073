"""Code that the client, the service and the converter share. It imports only the generated stubs of this project."""
