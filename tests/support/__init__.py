"""Helpers that several test modules share: networks, images, files of other frameworks, engines and servers."""
