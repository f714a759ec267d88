"""Locum keeps a service at its IP address when the server behind it dies."""

__version__ = "0.1.0"
