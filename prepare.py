"""Prepare videos for training: python prepare.py source=voxceleb2 source.root=DIR output=DIR [detector=dlib]."""

import shlex
import sys

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig


@hydra.main(version_base="1.3", config_path="conf", config_name="prepare")
def main(config: DictConfig) -> None:
    """Build the runner from the config and run it; what a user can mend is told without a traceback."""
    parts = {name: value for name, value in config.items() if name != "paths"}
    try:
        runner = instantiate(parts, command=shlex.join(["python", "prepare.py", *sys.argv[1:]]))
        runner.run()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where this one stopped")
    except (ValueError, FileNotFoundError, ImportError) as error:
        sys.exit(f"prepare.py: {error}")


if __name__ == "__main__":
    main()
