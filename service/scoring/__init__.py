"""Scoring one image: options → plan → strips of pixels → tiles → rows of the grid and the averages.

Knows neither gRPC nor the messages of a request.
"""
