"""The client library and the command `fullconv-score`."""

from client.answer import Answer, Entry
from client.errors import ImageError, RequestError, ScoringError, UnavailableError
from client.remote import Client

__all__ = ["Answer", "Client", "Entry", "ImageError", "RequestError", "ScoringError", "UnavailableError"]
