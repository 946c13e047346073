"""The server as a whole: its ports, start, health, metrics and shutdown."""
