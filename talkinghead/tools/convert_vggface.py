"""Oxford's VGGFace (Parkhi et al., BMVC 2015): from its Caffe or Torch7 file to `vggface.safetensors`.

    python -m talkinghead.tools.convert_vggface vgg_face_caffe.tar.gz [OUTPUT]

Keeps the 13 convolutions, for BGR input. Both formats are read here, without Caffe, Torch7 or pickle.
"""

from talkinghead.processes import interruptible, program

if __name__ == "__main__":  # before the imports that take seconds
    program("talkinghead.tools.convert_vggface")

import argparse
import hashlib
import os
import struct
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from talkinghead.models.backbones import VGG, VGG16_BLOCKS, VGG16_LAYERS
from talkinghead.pretrained import SOURCES, WEIGHTS_VARIABLE
from talkinghead.storage import in_one_line, write_atomic

ARCHIVE_MD5 = {one.file: one.md5 for one in [SOURCES["vggface"].archive] if one}
_NETWORKS = ("VGG_FACE.caffemodel", "VGG_FACE.t7")


def convert(file: Path, output: Path) -> dict[str, str]:
    """Convert an archive, a .caffemodel or a .t7 file. Returns what is stored beside the weights: source and checksum.

    Raises:
        ValueError: the checksum, the format or the layers are not those of VGGFace, or the output exists and was not
            made here.
    """
    keep_others(output)
    content, name = read_network(file)
    parse = parse_caffemodel if name.endswith(".caffemodel") else parse_torch7
    try:
        parameters = list(parse(content))
    except (IndexError, KeyError, TypeError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"{name} of {file} cannot be read ({error!r}): is the download complete?") from error
    tensors = convolutions(parameters, where=f"{name} of {file}")
    metadata = {"source": name, "sha256_of_source": hashlib.sha256(content).hexdigest(), "input": "BGR, 0-255"}
    write_atomic(output, save(tensors, metadata))
    return metadata


def keep_others(output: Path) -> None:
    """Raises ValueError if anything but converted weights would be overwritten."""
    if output.is_dir():
        raise ValueError(f"{output} is a folder: give the output another name")
    if not output.exists():
        return
    try:
        with safe_open(output, "pt") as stored:
            made_here = "sha256_of_source" in (stored.metadata() or {})
    except (SafetensorError, OSError):
        made_here = False
    if not made_here:
        raise ValueError(f"{output} is there and was not made by this command: give the output another name")


def read_network(file: Path) -> tuple[bytes, str]:
    """The bytes and name of the network file; from an archive with the right checksum, or the file itself."""
    if not tarfile.is_tarfile(file):
        return file.read_bytes(), file.name
    with open(file, "rb") as stream:
        md5 = hashlib.file_digest(stream, "md5").hexdigest()
    if md5 != ARCHIVE_MD5.get(file.name, md5):
        raise ValueError(f"{file} is damaged or another file: MD5 {md5}, expected {ARCHIVE_MD5[file.name]}")
    with tarfile.open(file) as archive:
        for member in archive:
            stored = archive.extractfile(member) if Path(member.name).name in _NETWORKS else None
            if stored is not None:
                return stored.read(), Path(member.name).name
    raise ValueError(f"{file} holds none of {', '.join(_NETWORKS)}")


def convolutions(parameters: list[np.ndarray], where: str) -> dict[str, Tensor]:
    """The first 13 weights and biases, under torchvision's names and in its shapes."""
    expected = VGG(VGG16_BLOCKS, [*VGG16_LAYERS, 28], "caffe_face").state_dict()
    tensors = {}
    for (name, model), array in zip(expected.items(), parameters, strict=False):
        if array.size != model.numel():
            raise ValueError(f"{where}: {name} has shape {array.shape}, VGGFace has {tuple(model.shape)}")
        tensors[name] = torch.from_numpy(array.reshape(model.shape).astype(np.float32))
    if len(tensors) != len(expected):
        raise ValueError(f"{where} holds {len(parameters)} weights and biases, VGGFace has at least {len(expected)}")
    return tensors


# ---- Caffe: a protobuf message. Numbers of the fields used, from caffe.proto.
_NET_LAYERS, _NET_LAYER = 2, 100  # of the old kind (V1LayerParameter) and of the new one (LayerParameter)
_BLOBS_OF = {_NET_LAYERS: 6, _NET_LAYER: 7}
_BLOB_DATA = 5


def parse_caffemodel(content: bytes) -> Iterator[np.ndarray]:
    """All blobs of all layers, flat, in their order: weight, bias, weight, bias …"""
    for field, layer in protobuf_fields(memoryview(content)):
        if field in _BLOBS_OF:
            for inner, blob in protobuf_fields(layer):
                if inner == _BLOBS_OF[field]:
                    yield blob_values(blob)


def blob_values(blob: memoryview) -> np.ndarray:
    """The floats of a BlobProto, packed (one field of many floats) or one field each."""
    parts = [bytes(value) for field, value in protobuf_fields(blob) if field == _BLOB_DATA]
    return np.frombuffer(b"".join(parts), "<f4")


def protobuf_fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    """(number, content) of the fields of a protobuf message; numbers stored as varint have empty content."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        kind = key & 7
        if kind == 0:
            _, at = varint(message, at)
            size = 0
        elif kind == 2:
            size, at = varint(message, at)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise ValueError(f"not a Caffe model: wire type {kind} at byte {at}")
        if at + size > len(message):
            raise ValueError(f"not a Caffe model, or cut short: a field of {size} bytes at byte {at}")
        yield key >> 3, message[at : at + size]
        at += size


def varint(message: memoryview, at: int) -> tuple[int, int]:
    """A protobuf integer and the place after it."""
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at


# ---- Torch7: a tree of tagged values, little-endian, objects stored once and referred to by number.
_NIL, _NUMBER, _STRING, _TABLE, _OBJECT, _BOOLEAN = range(6)
_STORAGES = {"torch.FloatStorage": "<f4", "torch.DoubleStorage": "<f8", "torch.LongStorage": "<i8"}
_TENSORS = ("torch.FloatTensor", "torch.DoubleTensor", "torch.LongTensor")


def parse_torch7(content: bytes) -> Iterator[np.ndarray]:
    """Weight and bias of each module that has them, in the order of the network."""
    yield from module_parameters(Torch7Reader(content).value())


def module_parameters(module: Any) -> Iterator[np.ndarray]:
    """Weight and bias of a module and of its children, depth first."""
    if isinstance(module.get("weight"), np.ndarray):
        yield module["weight"]
        yield module["bias"]
    children = module.get("modules") or {}
    for number in sorted(children):
        yield from module_parameters(children[number])


class Torch7Reader:
    """Reads the values of a .t7 file one after another: tables and nn modules become dicts, tensors arrays."""

    def __init__(self, content: bytes) -> None:
        self.content, self.at = content, 0
        self.known: dict[int, Any] = {}

    def take(self, layout: str) -> Any:
        """One little-endian number: i (int), q (long), d (double)."""
        (value,) = struct.unpack_from(f"<{layout}", self.content, self.at)
        self.at += struct.calcsize(f"<{layout}")
        return value

    def string(self) -> str:
        size = self.take("i")
        self.at += size
        return self.content[self.at - size : self.at].decode("latin-1")

    def value(self) -> Any:
        kind = self.take("i")
        if kind == _NIL:
            return None
        if kind == _NUMBER:
            return self.take("d")
        if kind == _STRING:
            return self.string()
        if kind == _BOOLEAN:
            return self.take("i") == 1
        if kind not in (_TABLE, _OBJECT):
            raise ValueError(f"not a Torch7 network: a value of type {kind} at byte {self.at}")
        number = self.take("i")
        if number not in self.known:
            self.known[number] = self.table(number) if kind == _TABLE else self.object(number)
        return self.known[number]

    def table(self, number: int) -> dict:
        table: dict = {}
        self.known[number] = table
        for _ in range(self.take("i")):
            key = self.value()
            table[key] = self.value()
        return table

    def object(self, number: int) -> Any:
        name = self.string()
        if name.startswith("V "):  # the version of the format comes first
            name = self.string()
        if name in _STORAGES:
            size, dtype = self.take("q"), np.dtype(_STORAGES[name])
            self.at += size * dtype.itemsize
            return np.frombuffer(self.content, dtype, size, self.at - size * dtype.itemsize)
        return self.tensor() if name in _TENSORS else self.value()  # an nn module is its table of fields

    def tensor(self) -> np.ndarray | None:
        num_axes = self.take("i")
        shape = [self.take("q") for _ in range(num_axes)]
        strides = [self.take("q") for _ in range(num_axes)]
        first, storage = self.take("q") - 1, self.value()
        if storage is None:
            return None
        last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        if first < 0 or min(strides, default=0) < 0 or last >= len(storage):
            raise ValueError(f"not a Torch7 network: a tensor of shape {shape} in a storage of {len(storage)} numbers")
        in_bytes = [stride * storage.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(storage[first:], shape, in_bytes).copy()


def main(arguments: list[str]) -> None:
    """Convert the file named on the command line."""
    folder = Path(os.environ.get(WEIGHTS_VARIABLE) or "weights")
    parser = argparse.ArgumentParser(
        prog="python -m talkinghead.tools.convert_vggface",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="vgg_face_caffe.tar.gz, VGG_FACE.caffemodel or VGG_FACE.t7")
    parser.add_argument("output", type=Path, nargs="?", default=folder / SOURCES["vggface"].file)
    given = parser.parse_args(arguments)
    try:
        metadata = convert(given.file, given.output)
    except (ValueError, OSError) as error:
        sys.exit(f"vggface: {in_one_line(error)}")
    print(f"{given.output} written from {metadata['source']} with SHA-256 {metadata['sha256_of_source']}")


if __name__ == "__main__":
    with interruptible("talkinghead.tools.convert_vggface"):
        main(sys.argv[1:])
