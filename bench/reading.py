"""Reading tokens: shards into the cache, opening a cache that is warm, and random batches against `datasets`.

The same rows of 512 as shards of ours, read through the cache, and as datasets reads those very parquet files
(load_dataset, with_format("numpy"), ds[indices]). Batches are 64 rows by number, in turns, as int64 in memory on both
sides, since that is what a step takes; both have read every row once before. The pairs' median ratio counts. The
memory is of a process that reads the batches and nothing else: what that adds to pages of its own, and to mapped ones,
which the system takes back when others need them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
from rows import Row, arguments, show

from suite import _core
from suite.data import shards
from suite.data.batches import ahead, batch_rows
from suite.data.shards import Shard, Split, Tokens

VOCAB, SEQ_LEN, BATCH, PER_SHARD = 4096, 512, 64, 20_000
BOS, EOS = 0, 1


def make_tokens(folder: Path, rows: int) -> Tokens:
    """Shards of ids as text has them: few ids often, many seldom (Zipf)."""
    draw = np.random.default_rng(1)
    packer = _core.Packer(
        folder, "train", bos=BOS, vocab_size=VOCAB, seq_len=SEQ_LEN, overlap=0, rows_per_shard=PER_SHARD
    )
    chances = 1 / np.arange(1, VOCAB + 1) ** 1.05
    edges = np.cumsum(chances / chances.sum())
    for first in range(0, rows, PER_SHARD):
        uniform = draw.random(min(PER_SHARD, rows - first) * (SEQ_LEN - 1))
        packer.push(np.minimum(np.searchsorted(edges, uniform), VOCAB - 1).astype(np.uint16))
    made, tokens = packer.finish()
    split = Split("bench", "train", "", None, None, tokens, rows, 0, tuple(Shard(*info) for info in made))
    sealed = Tokens(folder, "", VOCAB, BOS, EOS, None, SEQ_LEN, 0, PER_SHARD, "stream", {"train": split})
    sealed.write()
    return sealed


def numbers(rows: int, count: int) -> list[np.ndarray]:
    return [batch_rows(step, 0, 1, BATCH, rows, 1).astype(np.int64) for step in range(count)]


def our_batches(tokens: Tokens) -> Callable[[list[np.ndarray]], int]:
    rows = tokens.rows("train")

    def read(batches: list[np.ndarray]) -> int:
        return sum(int(rows[one].astype(np.int64)[0, 1]) for one in batches)

    return read


def ahead_batches(tokens: Tokens) -> Callable[[list[np.ndarray]], int]:
    rows = tokens.rows("train")

    def read(batches: list[np.ndarray]) -> int:
        with ahead(rows, range(len(batches)), lambda step: batches[step], "cpu") as coming:
            return sum(int(one[0, 1]) for one in coming)

    return read


def their_batches(tokens: Tokens) -> Callable[[list[np.ndarray]], int]:
    import datasets

    datasets.disable_progress_bars()
    files = [str(tokens.folder / shard.name) for shard in tokens.split("train").shards]
    cache = str(tokens.folder.parent / "datasets")
    table = datasets.load_dataset("parquet", data_files=files, split="train", cache_dir=cache).with_format("numpy")

    def read(batches: list[np.ndarray]) -> int:
        return sum(int(np.asarray(table[one]["tokens"], np.int64)[0, 1]) for one in batches)

    return read


READERS = {"suite": our_batches, "suite, ahead": ahead_batches, "datasets": their_batches}


def seconds(work: Callable[[], object]) -> tuple[float, float]:
    """CPU seconds of this process, its threads included, and wall seconds."""
    cpu, wall = time.process_time(), time.monotonic()
    work()
    return time.process_time() - cpu, time.monotonic() - wall


def memory(way: str, folder: str, count: str) -> None:
    """The process whose memory is measured: prints own and mapped kilobytes that reading added to what it imported."""
    import datasets  # noqa: F401
    import torch  # noqa: F401

    def resident() -> dict[str, int]:
        lines = Path("/proc/self/status").read_text().splitlines()
        return {line.split(":")[0]: int(line.split()[1]) for line in lines if line.startswith("Rss")}

    tokens = shards.read(Path(folder))
    wanted = numbers(tokens.split("train").rows, int(count))
    READERS[way](tokens)(wanted[:1])  # what is set up once
    before = resident()
    read = READERS[way](tokens)
    read(wanted)
    after = resident()  # while the reader lives, and with it its maps
    print(json.dumps({name: after[name] - before[name] for name in ("RssAnon", "RssFile")}))


def decoding(tokens: Tokens, home: Path, turns: int) -> list[Row]:
    """Shards to rows, on one core and on all; then the same rows opened again."""
    ids = tokens.split("train").rows * SEQ_LEN
    every = os.sched_getaffinity(0)
    rows, found = [], {}
    for turn in range(turns):
        for cores in (1, len(every)):
            os.environ["SUITE_CACHE"] = str(home / f"cache-{turn}-{cores}")
            os.sched_setaffinity(0, sorted(every)[:cores])
            taken = seconds(lambda: tokens.rows("train"))
            os.sched_setaffinity(0, every)
            found.setdefault(cores, []).append(taken)
    rows.append(Row("decoding, 1 core", ids / 1e6 / statistics.median(t[0] for t in found[1]), "M tokens/CPU-s"))
    rows.append(
        Row(
            f"decoding, {len(every)} cores",
            ids / 1e6 / statistics.median(t[1] for t in found[len(every)]),
            "M tokens/s",
        )
    )
    out = np.empty((PER_SHARD, SEQ_LEN), np.uint16)
    first = tokens.split("train").shards[0]
    path, out = tokens.folder / first.name, out[: first.rows]
    for name, sha256 in (("with its hash", first.sha256), ("without it", None)):
        taken = [
            seconds(lambda: _core.read_shard_into(path, SEQ_LEN, VOCAB, sha256, out))[0]  # noqa: B023
            for _ in range(2 * turns + 1)
        ]
        rows.append(Row(f"one shard into memory, {name}", out.size / 1e6 / statistics.median(taken), "M tokens/CPU-s"))
    warm = statistics.median(seconds(lambda: tokens.rows("train"))[1] for _ in range(21))
    rows.append(Row("opening a warm cache", 1e3 * warm, "ms"))
    return rows


def main() -> None:
    options = arguments(__doc__ or "")
    turns, count, batches = (3, 40_000, 200) if options.quick else (7, 200_000, 1000)
    peer = {"peer": "datasets", "version": version("datasets")}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "tokens").mkdir()
        tokens = make_tokens(home / "tokens", count)
        rows = decoding(tokens, home, turns)
        readers = {way: make(tokens) for way, make in READERS.items()}
        every = [np.arange(first, min(first + 1000, count)) for first in range(0, count, 1000)]
        wanted = numbers(count, batches)
        assert len({read(wanted[:9]) for read in readers.values()}) == 1, "they read different rows"
        for read in readers.values():
            read(every)
        found: dict[str, list[float]] = {way: [] for way in READERS}
        for _ in range(turns):
            for way, read in readers.items():
                found[way].append(batches / seconds(lambda: read(wanted))[1])  # noqa: B023
        for way, rates in found.items():
            rows.append(Row(f"random batches of {BATCH} x {SEQ_LEN}: {way}", statistics.median(rates), "batches/s"))
        for way in ("suite", "suite, ahead"):
            ratio = statistics.median(a / b for a, b in zip(found[way], found["datasets"], strict=True))
            rows.append(Row(f"random batches: {way}, times datasets", ratio, "ratio", None, **peer))
        for way in READERS:
            command = [sys.executable, __file__, "--memory", way, str(tokens.folder), str(batches)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            used = json.loads(done.stdout.splitlines()[-1])
            rows.append(Row(f"memory of its own: {way}", used["RssAnon"] / 1e3, "MB"))
            rows.append(Row(f"mapped and resident: {way}", used["RssFile"] / 1e3, "MB"))
    show(rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--memory"]:
        memory(*sys.argv[2:])
    else:
        main()
