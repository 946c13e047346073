"""The server: its ports, start, reports and shutdown."""
