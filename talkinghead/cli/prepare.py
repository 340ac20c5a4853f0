"""Prepare videos for training: python prepare.py source=voxceleb2 source.root=DIR output=DIR [detector=dlib]."""

import shlex
import sys

import hydra
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from talkinghead.cli import CONF, command_of
from talkinghead.cli.checking import check_options
from talkinghead.cli.ending import errors_in_one_line
from talkinghead.data.remote import DataFault
from talkinghead.pretrained import set_weights_folder


@hydra.main(version_base="1.3", config_path=str(CONF), config_name="prepare")
def main(config: DictConfig) -> None:
    """Build the runner from the config and run it."""
    command = f"{command_of('prepare')} {shlex.join(sys.argv[1:])}"
    with errors_in_one_line("prepare.py", RuntimeError, DataFault):  # a worker died; an object store fails
        check_options(config, without=("paths",))
        set_weights_folder(config.paths.weights_dir)
        instantiate(runner_config(config), command=command).run()
        print(f"train on it: {command_of('train')} data=folder data.path={config.output}", flush=True)


def runner_config(config: DictConfig) -> dict:
    """The resolved config of the runner, without the section `paths`."""
    parts = {name: value for name, value in config.items() if name != "paths"}
    return {n: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for n, v in parts.items()}
