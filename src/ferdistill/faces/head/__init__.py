"""Rendered faces: people, expressions, views, and pictures of them, from a free mesh of the head."""

from .expression import ACTION_UNITS, CLASSES, PRIOR, WEAKEST, draw_expression, intensity, perceived, prototype
from .person import Identity, draw_identity
from .picture import grey, render
from .view import OCCLUDERS, View, draw_view

__all__ = [
    "ACTION_UNITS",
    "CLASSES",
    "OCCLUDERS",
    "PRIOR",
    "WEAKEST",
    "Identity",
    "View",
    "draw_expression",
    "draw_identity",
    "draw_view",
    "grey",
    "intensity",
    "perceived",
    "prototype",
    "render",
]
