"""Where each pretrained network comes from (file, URL, checksum, licence) and how its file is found.

`python -m talkinghead.pretrained` lists them, `python -m talkinghead.pretrained --download voxceleb` fetches a set.
"""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.pretrained")

import argparse
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from talkinghead.downloads import fetch
from talkinghead.storage import digest

WEIGHTS_VARIABLE = "TALKINGHEAD_WEIGHTS"
_SHIPPED = Path(__file__).parent / "models"  # files that are part of the package

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Archive:
    """What a network is made from by `python -m talkinghead.tools.<tool> ARCHIVE FILE`.

    Attributes:
        md5: as other projects check it; the publisher of VGGFace gives none
    """

    url: str
    md5: str
    megabytes: int
    tool: str

    @property
    def file(self) -> str:
        """File name of the archive, the last part of its URL."""
        return self.url.rsplit("/", maxsplit=1)[-1]


@dataclass(frozen=True)
class Source:
    """One pretrained network.

    Attributes:
        file: its name in the weights folder and in the torch hub cache
        url: where the file can be downloaded; None: see `offline`
        sha256: all digits, or the leading ones that a publisher puts into the file name; "": none is published
        offline: what to do on a machine that cannot download
        elsewhere: a folder where another package keeps the same file
        archive: from which `--download` makes the file, where the file itself has no URL
    """

    file: str
    url: str | None
    sha256: str
    licence: str
    megabytes: int
    offline: str = ""
    elsewhere: str | None = None
    archive: Archive | None = None


_TORCHVISION = "https://download.pytorch.org/models"
_TORCHVISION_LICENCE = "BSD-3-Clause (torchvision)"
_JOHNSON = "https://web.eecs.umich.edu/~justincj/models"  # the Caffe VGGs of Oxford, as PyTorch files
_VGG_LICENCE = "CC BY 4.0 (Oxford VGG)"
_USE_OWN = "or train with `loss=synthetic`, whose network is part of this package"

SOURCES = {
    "facenet_synthetic": Source(
        "facenet_synthetic.safetensors",
        None,
        "f800ceaa119e76387746850073f7c66fc97f214b04ce83889507974055678a17",
        "Apache-2.0, part of this package",
        4,
        "make it again with `python train.py experiment=facenet_synthetic`",
    ),
    "vgg19": Source("vgg19-dcbb9e9d.pth", f"{_TORCHVISION}/vgg19-dcbb9e9d.pth", "dcbb9e9d", _TORCHVISION_LICENCE, 548),
    "vgg19_caffe": Source("vgg19-d01eb7cb.pth", f"{_JOHNSON}/vgg19-d01eb7cb.pth", "d01eb7cb", _VGG_LICENCE, 548),
    "vgg16": Source("vgg16-397923af.pth", f"{_TORCHVISION}/vgg16-397923af.pth", "397923af", _TORCHVISION_LICENCE, 528),
    "vgg16_caffe": Source("vgg16-00b39a1b.pth", f"{_JOHNSON}/vgg16-00b39a1b.pth", "00b39a1b", _VGG_LICENCE, 528),
    "vggface": Source(
        "vggface.safetensors",
        None,
        "",
        "CC BY-NC 4.0: research only (Oxford VGG Face)",
        59,
        "`python -m talkinghead.pretrained --download vggface`, or fetch "
        "https://www.robots.ox.ac.uk/~vgg/software/vgg_face/src/vgg_face_caffe.tar.gz (540 MB) and run "
        "`python -m talkinghead.tools.convert_vggface vgg_face_caffe.tar.gz`",
        archive=Archive(
            "https://www.robots.ox.ac.uk/~vgg/software/vgg_face/src/vgg_face_caffe.tar.gz",
            "ee707ac6e890bc148cb155adeaad12be",
            540,
            "convert_vggface",
        ),
    ),
    "mobilenet_v2": Source(
        "mobilenet_v2-b0353104.pth",
        f"{_TORCHVISION}/mobilenet_v2-b0353104.pth",
        "b03531047ffacf1e2488318dcd2aba1126cde36e3bfe1aa5cb07700aeeee9889",
        _TORCHVISION_LICENCE,
        14,
    ),
    "alexnet": Source(
        "alexnet-owt-7be5be79.pth",
        f"{_TORCHVISION}/alexnet-owt-7be5be79.pth",
        "7be5be79",
        _TORCHVISION_LICENCE,
        233,
        "the metric `lpips` is left out where this file is missing",
    ),
    "inception": Source(
        "weights-inception-2015-12-05-6726825d.pth",
        "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
        "6726825d",
        "Apache-2.0 (TensorFlow)",
        91,
        "the metric `fid` is left out where this file is missing",
    ),
    "arcface": Source(
        "w600k_r50.onnx",
        None,
        "4c06341c33c2ca1f86781dab0e829f88ad5b64be9fba56e56bc9ebdefc619e43",
        "research only (InsightFace)",
        174,
        "unpack it from https://github.com/deepinsight/insightface/releases/download/v0.7/buffalo_l.zip (289 MB), or "
        "let insightface fetch it; the metric `csim` is left out where this file is missing, `csim_dlib` is not",
        "~/.insightface/models/buffalo_l",
    ),
    "2dfan4": Source(
        "2DFAN4-11f355bf06.pth.tar",
        "https://www.adrianbulat.com/downloads/python-fan/2DFAN4-11f355bf06.pth.tar",
        "11f355bf06",
        "BSD-3-Clause (face-alignment)",
        91,
        "use `detector=dlib`, whose networks come with `pip install talkinghead[offline]`",
    ),
    "s3fd": Source(
        "s3fd-619a316812.pth",
        "https://www.adrianbulat.com/downloads/python-fan/s3fd-619a316812.pth",
        "619a316812",
        "BSD-3-Clause (face-alignment)",
        86,
        "use `detector=dlib`, whose networks come with `pip install talkinghead[offline]`",
    ),
}


_VOXCELEB = ("vgg19_caffe", "vggface", "s3fd", "2dfan4")  # the losses, and the detector of prepare.py
SETS = {  # what an experiment wants, to be fetched together
    "voxceleb": _VOXCELEB,
    "meta_voxceleb": _VOXCELEB,
    "meta_synthetic": ("facenet_synthetic",),
    "meta_shipped": ("vgg16_caffe",),
    "table1": ("vgg19_caffe", "vggface", "vgg19", "alexnet", "inception", "arcface", "s3fd", "2dfan4"),
}


def weights_folder() -> Path:
    """The project's folder of pretrained networks: $TALKINGHEAD_WEIGHTS, else ./weights."""
    return Path(os.environ.get(WEIGHTS_VARIABLE) or "weights")


def set_weights_folder(folder: str | Path) -> None:
    """Look for pretrained networks there first, in this process and its children (like `torch.hub.set_dir`)."""
    os.environ[WEIGHTS_VARIABLE] = str(folder)


def find(name: str, path: str | Path | None = None) -> Path:
    """The file of a pretrained network: `path` if given, else the weights folder, the torch hub cache, a download.

    Raises ValueError for an unknown name and FileNotFoundError, naming file, URL, size, licence and alternative.
    """
    file = locate(name, path)
    if file is not None:
        return file
    source, (weights, cache, *_) = SOURCES[name], folders(name)
    if source.url is None:
        raise FileNotFoundError(missing(name, f"neither in {weights} nor in {cache}"))
    return download(name, cache / source.file)


def locate(name: str, path: str | Path | None = None) -> Path | None:
    """Like `find`, but never downloads: None if the file is not on this machine. A wrong `path` is an error."""
    if name not in SOURCES:
        raise ValueError(f"no pretrained network is called {name!r}; known: {', '.join(sorted(SOURCES))}")
    source = SOURCES[name]
    if path is not None:
        if not Path(path).is_file():
            raise FileNotFoundError(missing(name, f"{path} was given and does not exist"))
        return Path(path)
    for candidate in (folder / source.file for folder in folders(name)):
        if candidate.is_file():
            check_sha256(candidate, source.sha256)
            return candidate
    return None


def folders(name: str) -> list[Path]:
    """The folders to search for `name`, in order: weights folder, torch hub cache, this package, another's folder."""
    import torch  # noqa: PLC0415, it takes seconds, and --help does without

    elsewhere = SOURCES[name].elsewhere
    other = [Path(elsewhere).expanduser()] if elsewhere else []
    return [weights_folder(), Path(torch.hub.get_dir()) / "checkpoints", _SHIPPED, *other]


_NOTICED: set[tuple[str, str]] = set()


def locate_for(metric: str, name: str, path: str | Path | None = None) -> Path | None:
    """`locate` for a metric that can be left out: if the file is missing, None and one notice per process."""
    file = locate(name, path)
    if file is None and (metric, name) not in _NOTICED:
        _NOTICED.add((metric, name))
        source, (weights, cache, _, *other) = SOURCES[name], folders(name)
        where = ", ".join(map(str, [weights, cache, *other]))
        how = source.url or f"`python -m talkinghead.pretrained {name}` says how to get it"
        _logger.warning("no %s: %s (%d MB) lies in none of %s; %s", metric, source.file, source.megabytes, where, how)
    return file


def download(name: str, target: Path) -> Path:
    """Download the file of `name` to `target`: complete and with the right checksum, or not at all.

    Where the connection breaks, what has come stays in `<target>.part`, and the next call goes on with it.
    """
    source = SOURCES[name]
    if source.url is None:
        raise FileNotFoundError(missing(name, "it cannot be downloaded directly"))
    try:
        fetch(source.url, target, source.sha256)
    except OSError as error:  # no network; wrong checksum
        raise FileNotFoundError(missing(name, f"the download failed: {error}")) from error
    return target


def make(name: str, target: Path) -> Path:
    """Fetch the archive of `name`, and let its tool make `target` from it; the archive does not stay."""
    archive = SOURCES[name].archive
    if archive is None:
        raise FileNotFoundError(missing(name, "nothing is known that it could be made from"))
    file = target.with_name(archive.file)
    try:
        fetch(archive.url, file, archive.md5, "md5")
    except OSError as error:
        raise FileNotFoundError(missing(name, f"the download failed: {error}")) from error
    command = [sys.executable, "-m", f"talkinghead.tools.{archive.tool}", str(file), str(target)]
    if subprocess.run(command, check=False).returncode:
        raise FileNotFoundError(missing(name, f"{file} could not be converted"))
    file.unlink()
    return target


def missing(name: str, reason: str) -> str:
    """The message for a network whose file is not there: what, why, and each way to get it."""
    source = SOURCES[name]
    lines = [
        f"the pretrained network {name!r} is missing ({reason}).",
        f"  file     {source.file}, {source.megabytes} MB",
        f"  URL      {source.url or 'see offline'}",
        f"  licence  {source.licence}",
        f"  offline  put the file into the weights folder (./weights, or ${WEIGHTS_VARIABLE}, or paths.weights_dir=), "
        "or give its path in the config",
    ]
    return "\n".join([*lines, f"           {source.offline or _USE_OWN}"])


_CHECKED: set[tuple[str, float, int]] = set()


def check_sha256(path: Path, sha256: str) -> None:
    """Raise ValueError if the file's SHA-256 does not begin with `sha256`. A file is read once per process."""
    stat = path.stat()
    key = (str(path), stat.st_mtime, stat.st_size)
    if not sha256 or key in _CHECKED:
        return
    found = digest(path)
    if not found.startswith(sha256):
        raise ValueError(
            f"{path} is damaged or another file: SHA-256 {found}, expected {sha256}…; delete it and try again"
        )
    _CHECKED.add(key)


def main(arguments: list[str] | None = None) -> int:
    """List all networks, or the named ones, and fetch them; returns the exit status, 1 if one is missing."""
    parser = argparse.ArgumentParser(
        prog="python -m talkinghead.pretrained", description="Pretrained networks: what they are, where they lie.",
        epilog=f"sets of them: {', '.join(SETS)}. A download that was interrupted goes on where it was.",
    )  # fmt: skip
    parser.add_argument("names", nargs="*", help="networks or sets; all where none is named")
    parser.add_argument("--download", action="store_true", help="fetch what is missing; VGGFace is converted")
    parser.add_argument("--weights-dir", help=f"the weights folder; default: ${WEIGHTS_VARIABLE}, else ./weights")
    given = parser.parse_args(arguments)
    if given.weights_dir:
        set_weights_folder(given.weights_dir)
    unknown = [name for name in given.names if name not in {*SETS, *SOURCES}]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; there are {', '.join([*SETS, *SOURCES])}")
    names = list(dict.fromkeys(one for name in given.names or SOURCES for one in SETS.get(name, (name,))))
    absent = [name for name in names if not told(name, given.download)]
    print(f"{sum(SOURCES[name].megabytes for name in names)} MB in all; {len(absent)} of {len(names)} are not here")
    for name in absent if given.names else ():
        print("\n" + missing(name, "not on this machine"))
    return int(bool(absent and given.names))


def told(name: str, wanted: bool) -> bool:
    """Print a line about a network, fetched into the weights folder where asked; returns whether it is here."""
    source, file = SOURCES[name], None
    try:
        file = locate(name)
        if file is None and wanted and (source.url or source.archive):
            file = (download if source.url else make)(name, weights_folder() / source.file)
    except (FileNotFoundError, ValueError) as error:  # not there, or damaged: the list goes on
        print(error, file=sys.stderr)
    print(f"{name:18} {source.file:42} {source.megabytes:4} MB  {source.licence}  {file or 'not here'}")
    return file is not None


if __name__ == "__main__":
    with interruptible("talkinghead.pretrained"):
        sys.exit(main())
