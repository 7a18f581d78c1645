"""The command line: one file for each command, which parses, calls the library and prints."""

from uncollapse.cli.main import app, main

__all__ = ["app", "main"]
