"""Reasons for which a server refuses a request, in the google.rpc.ErrorInfo of a status and in ScoreMany's Failure."""

from enum import StrEnum

DOMAIN = "fullconv"
"""Domain of every ErrorInfo that has one of these reasons."""


class Reason(StrEnum):
    """A reason. Its name is part of the protocol and never changes. Server and client map it to their own errors."""

    IMAGE_INVALID = "IMAGE_INVALID"
    LIMIT_EXCEEDED = "LIMIT_EXCEEDED"
    NOT_FOUND = "NOT_FOUND"
    OPTION_INVALID = "OPTION_INVALID"
    MEDIA_TYPE_UNSUPPORTED = "MEDIA_TYPE_UNSUPPORTED"
    CAPABILITY_MISSING = "CAPABILITY_MISSING"
    MODEL_INVALID = "MODEL_INVALID"
    MODEL_UNREADABLE = "MODEL_UNREADABLE"
    UNSUPPORTED = "UNSUPPORTED"
    ACCESS_DENIED = "ACCESS_DENIED"
    BUSY = "BUSY"
    SHORTAGE = "SHORTAGE"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    CLIENT_IDLE = "CLIENT_IDLE"
    DRAINING = "DRAINING"
    CANCELLED = "CANCELLED"
    INTERNAL = "INTERNAL"
