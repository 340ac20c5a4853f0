"""Evaluate: `python evaluate.py checkpoint=FILE shots=[1,8,32] method=[ff,ft,nearest] output=DIR`."""

from talkinghead.cli.launch import launch

if __name__ == "__main__":
    launch("evaluate")
