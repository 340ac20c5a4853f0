"""Parametric heads, rendered to shards with exact landmarks."""
