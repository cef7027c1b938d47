"""Distil several teachers into one small student, with soft labels bound to their images."""

__version__ = "0.1.0"
