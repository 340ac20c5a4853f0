"""Train: `python train.py experiment=meta_synthetic` (conf/experiment lists the others)."""

from talkinghead.cli.launch import launch

if __name__ == "__main__":
    launch("train")
