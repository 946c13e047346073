"""Metadata of calls on which clients and servers agree."""

MESSAGE_BYTES = "fullconv-message-bytes"
"""Key of the size in bytes of the only message of a call, in decimal. Small messages do not wait for large ones."""
