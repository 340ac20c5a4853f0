"""Shards on disk, and episodes streamed from them."""
