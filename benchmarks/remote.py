"""Training from an object store: `python benchmarks/remote.py` (wants `pip install 'moto[server]' s3fs`).

A data set of smooth pictures (256 px, 64 frames a clip) is put into a bucket of a moto server on this machine, and an
epoch is read from it as training reads it, K = 8. A proxy in between counts bytes and requests of shards, and holds
back every answer by --latency. Printed is a Markdown table; bytes are relative to those of the frames of the episodes.

`--listed 1090000` lists that many clips in dataset.json, the shards again and again: how long does the first batch of a
run on VoxCeleb2 take?
"""

from talkinghead.processes import program

if __name__ == "__main__":  # before the imports that take seconds
    program("benchmarks/remote.py")

import argparse
import http.client
import http.server
import logging
import os
import re
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import fsspec
from data import FRAMES, make_data_set

from talkinghead.data.datamodule import EpisodeDataModule
from talkinghead.data.reader import ShardPool
from talkinghead.data.shards import DatasetInfo, Split, Videos

SHOTS = 8


class Proxy(http.server.BaseHTTPRequestHandler):
    """Passes requests on to the store, late."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    store: tuple[str, int]
    latency = 0.0
    shards = 0  # that there are; of those that are listed, the others are these again
    sent = requests = 0
    counting = threading.Lock()

    def log_message(self, *_: object) -> None:
        pass

    def pass_on(self) -> None:
        time.sleep(self.latency)
        if Proxy.shards:
            self.path = re.sub(r"(\d{6,})\.tar", lambda name: f"{int(name[1]) % Proxy.shards:06d}.tar", self.path)
        connection = http.client.HTTPConnection(*self.store)
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        connection.request(self.command, self.path, body, dict(self.headers))
        answer = connection.getresponse()
        content = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length", "0") if self.command == "HEAD" else str(len(content))
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content)
        connection.close()
        if ".tar" in self.path:
            with Proxy.counting:
                Proxy.sent += len(content)
                Proxy.requests += 1

    do_GET = do_HEAD = do_PUT = do_POST = pass_on


def start_store(latency: float) -> tuple[str, str]:
    """A moto server and the proxy before it; the addresses of both."""
    from moto.server import ThreadedMotoServer  # noqa: PLC0415, of this benchmark alone

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    Proxy.store, Proxy.latency = store.get_host_and_port(), latency
    proxy = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy)
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    return "http://{}:{}".format(*Proxy.store), f"http://127.0.0.1:{proxy.server_address[1]}"


def epoch(path: str, number: int, episodes: int, workers: int, cache: str | None) -> tuple[float, float, int, int]:
    """Seconds to the first batch and to the last one, bytes and requests of shards."""
    Proxy.sent = Proxy.requests = 0
    start = time.perf_counter()
    data = EpisodeDataModule(
        path, size=256, num_shots=SHOTS, episodes_per_epoch=episodes, batch_size=8, num_workers=workers, seed=0,
        cache_dir=cache,
    )  # fmt: skip
    loader = data.train_dataloader()
    loader.position = lambda: (number, 0)
    first = None
    for _ in loader:
        first = first or time.perf_counter() - start
    whole = time.perf_counter() - start
    data.teardown("fit")
    return first or whole, whole, Proxy.sent, Proxy.requests


def bytes_of_frames(folder: str, episodes: int) -> float:
    """Of the frames that `episodes` use: K + 1 of average size each."""
    data = EpisodeDataModule(
        folder, size=256, num_shots=SHOTS, episodes_per_epoch=8, batch_size=8, num_workers=0, seed=0
    )
    pool = ShardPool(folder, data.info.splits["train"].shards)
    clips = [pool.clip(number) for number in range(len(pool))]
    sizes = [sum(len(clip.read(name)) for name in clip.index.frames) for clip in clips]
    return episodes * (SHOTS + 1) * sum(sizes) / len(clips) / FRAMES


def list_again(folder: Path, clips: int) -> None:
    """Let dataset.json and videos.json of a data set list its shards over and over again."""
    info = DatasetInfo.load(folder)
    there = info.splits["train"].shards
    count = sum(entry.samples for entry in there)
    shards = [replace(there[n % len(there)], file=f"train/{n:06d}.tar") for n in range(clips * len(there) // count)]
    total = sum(entry.samples for entry in shards)
    split = Split(shards, total, total * FRAMES, count, count)
    replace(info, splits={"train": split}).save(folder)
    Videos([str(n) for n in range(count)], {"train": [n % count for n in range(total)]}).save(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=6, help="of few clips: moto copies a whole object for each range")
    parser.add_argument("--clips-per-shard", type=int, default=8)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--latency", type=float, default=0.03, help="seconds before each answer")
    parser.add_argument("--listed", type=int, help="clips in dataset.json; default: those that there are")
    options = parser.parse_args()
    episodes = options.shards * options.clips_per_shard
    os.environ |= {"AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none", "AWS_DEFAULT_REGION": "us-east-1"}
    with tempfile.TemporaryDirectory() as folder:
        make_data_set(Path(folder) / "set", options.shards, options.clips_per_shard)
        used = bytes_of_frames(f"{folder}/set", episodes)
        if options.listed:
            list_again(Path(folder) / "set", options.listed)
            Proxy.shards = options.shards
        behind, os.environ["AWS_ENDPOINT_URL"] = start_store(options.latency)
        store = fsspec.filesystem("s3", endpoint_url=behind)
        store.mkdir("bucket")
        store.put(f"{folder}/set", "bucket/set", recursive=True)
        columns = ("first batch, s", "epoch, s", "bytes of shards / of frames used", "requests")
        print(f"| {episodes} episodes, {options.workers} workers | {' | '.join(columns)} |")
        print("|---|---|---|---|---|")
        cache = f"{folder}/cache"
        for name, number, kept in (("no cache", 0, None), ("cache, empty", 0, cache), ("cache, next epoch", 1, cache),
                                   ("cache, first epoch again", 0, cache)):  # fmt: skip
            first, whole, sent, requests = epoch("s3://bucket/set", number, episodes, options.workers, kept)
            print(f"| {name} | {first:.1f} | {whole:.1f} | {sent / used:.2f} | {requests} |", flush=True)
    os._exit(0)  # servers' threads


if __name__ == "__main__":
    main()
