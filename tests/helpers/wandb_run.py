"""Reads back what wandb wrote offline: its file is a log of LevelDB's format with records of its own protocol."""

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from wandb.proto.wandb_internal_pb2 import Record

HEADER, BLOCK, PIECE = 7, 2**15, 7  # bytes: of the file's head, of a block, of a piece's head
PATIENCE_S = 20
WHOLE, LAST = 1, 4  # kinds of pieces that end a record


@dataclass
class WandbRun:
    """What one offline run holds."""

    run: Any = None
    config: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None

    def steps(self, name: str, axis: str) -> list[tuple[Any, Any]]:
        """The history of a metric: its step and value."""
        return [(row.get(axis), row[name]) for row in self.history if name in row]


def go_offline(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let wandb write below this folder alone."""
    for name in ("DATA", "CACHE", "CONFIG", "ARTIFACT"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(folder / "wandb_home"))
    for name in ("RUN_ID", "RESUME", "PROJECT", "RUN_GROUP", "NAME", "TAGS", "SWEEP_ID", "DIR"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")


def read_runs(folder: Path) -> list[WandbRun]:
    """The runs below a folder in the order of their beginning, once wandb's service has written their ends."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        runs = [read(path) for path in sorted(folder.rglob("offline-run-*/*.wandb"))]
        if all(run.exit_code is not None for run in runs) or time.monotonic() > deadline:
            return runs
        time.sleep(0.05)


def read(path: Path) -> WandbRun:
    """One run."""
    found = WandbRun()
    for content in records(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.run = record.run
            found.config |= {item.key: json.loads(item.value_json) for item in record.run.config.update}
        elif kind == "config":
            found.config |= {item.key: json.loads(item.value_json) for item in record.config.update}
        elif kind == "history":
            found.history.append({key_of(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            found.summary |= {key_of(item): json.loads(item.value_json) for item in record.summary.update}
        elif kind == "metric":
            found.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "request" and record.request.HasField("log_artifact"):
            found.artifacts.append(record.request.log_artifact.artifact)
        elif kind == "artifact":
            found.artifacts.append(record.artifact)
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def key_of(item: Any) -> str:
    """The name of an entry; nested ones have several parts."""
    return item.key or ".".join(item.nested_key)


def records(content: bytes) -> Iterator[bytes]:
    """The records of a log."""
    assert content[:4] == b":W&B"
    at, pieces = HEADER, b""
    while at + PIECE <= len(content):
        left = BLOCK - at % BLOCK
        if left < PIECE:  # the end of a block is padded
            at += left
            continue
        length, kind = struct.unpack("<HB", content[at + 4 : at + PIECE])
        if not kind or at + PIECE + length > len(content):  # the rest is being written
            return
        pieces += content[at + PIECE : at + PIECE + length]
        at += PIECE + length
        if kind in (WHOLE, LAST):
            yield pieces
            pieces = b""
