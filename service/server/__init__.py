"""The server as a whole: what it listens on, and how it starts, reports and stops."""
