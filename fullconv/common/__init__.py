"""Modules that the client, the service and the converter share. Of their code, they import only the generated stubs."""
