"""Metrics of generated pictures and clips, one per file."""
