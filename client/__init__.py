"""The client library and the command `fullconv-score`."""

from client.aio import AsyncClient
from client.answer import Answer, Entry
from client.connection import Security
from client.errors import ImageError, RequestError, ScoringError, UnavailableError
from client.remote import Client

__all__ = [
    "Answer",
    "AsyncClient",
    "Client",
    "Entry",
    "ImageError",
    "RequestError",
    "ScoringError",
    "Security",
    "UnavailableError",
]
