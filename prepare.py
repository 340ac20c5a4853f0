"""Prepare videos for training: python prepare.py source=voxceleb2 source.root=DIR output=DIR [detector=dlib]."""

import shlex
import sys

from talkinghead.cli import early

if __name__ == "__main__":  # before the imports that take seconds
    early.answer("prepare", "python prepare.py")

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf


@hydra.main(version_base="1.3", config_path="conf", config_name="prepare")
def main(config: DictConfig) -> None:
    """Build the runner from the config and run it; what a user can mend is told without a traceback."""
    command = shlex.join(["python", "prepare.py", *sys.argv[1:]])
    try:
        instantiate(runner_config(config), command=command).run()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on where this one stopped")
    except (ValueError, FileNotFoundError, ImportError, RuntimeError) as error:
        sys.exit(f"prepare.py: {error}")


def runner_config(config: DictConfig) -> dict:
    """The config of the runner, resolved: all but the paths that it refers to."""
    parts = {name: value for name, value in config.items() if name != "paths"}
    return {n: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for n, v in parts.items()}


if __name__ == "__main__":
    main()
