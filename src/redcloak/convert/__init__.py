"""Converters of files: run as modules, each on its own."""
