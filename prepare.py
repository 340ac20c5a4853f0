"""Prepare videos for training: python prepare.py source=voxceleb2 source.root=DIR output=DIR [detector=dlib]."""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("prepare.py")

import shlex
import sys

from talkinghead.cli import early

if __name__ == "__main__":  # before the imports that take seconds
    early.answer("prepare", "python prepare.py")

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talkinghead.cli.checking import check_options
from talkinghead.cli.ending import told


@hydra.main(version_base="1.3", config_path="conf", config_name="prepare")
def main(config: DictConfig) -> None:
    """Build the runner from the config and run it."""
    command = shlex.join(["python", "prepare.py", *sys.argv[1:]])
    with told("prepare.py", RuntimeError):  # a worker died
        check_options(config, without=("paths",))
        instantiate(runner_config(config), command=command).run()
        print(f"train on it: python train.py data=folder data.path={config.output}", flush=True)


def runner_config(config: DictConfig) -> dict:
    """The config of the runner, resolved: all but the paths that it refers to."""
    parts = {name: value for name, value in config.items() if name != "paths"}
    return {n: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for n, v in parts.items()}


if __name__ == "__main__":
    main()
