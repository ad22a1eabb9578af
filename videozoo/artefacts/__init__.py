"""Exported networks: the file formats, the graph that goes into them, and what runs it."""
