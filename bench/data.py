"""Text to token shards, against how others do it: the same parquet column of text, the same tokenizer, the same cores.

Two texts: the Python sources of the installed packages, which people wrote, and stories, whose few words flatter every
cache of words. Every measurement is a process of its own, pinned to its cores, that imports and warms up first; CPU
seconds are of the work alone, the children's included. The slow ways get the first megabytes of the same file, so that
all can take turns in one run; medians. Peers that are not installed are left out, and said.

  delphi      batches of 50 through transformers' tokenizer, a deque, lists of ints, Dataset.to_parquet
  datasets    map(batched) and group_texts, to_parquet
  datatrove   DocumentTokenizer, which writes tokens alone and no rows
  gigatoken   gigatoken, NumPy and pyarrow, as one writes it in an hour
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from data_ways import WAYS
from rows import Row, arguments, show

VOCAB = 4096
SLOW_BYTES = {"quick": 2_000_000, "full": 8_000_000}
FAST_BYTES = {"quick": 20_000_000, "full": 100_000_000}
SLOW = ("delphi", "datasets", "datatrove")
GROWTH = {"quick": (10, 100), "full": (10, 100, 1000, 5000)}
BYTES_PER_STORY = 443


def write_parquet(path: Path, texts: list[str]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"text": texts}), path, compression="zstd", row_group_size=2000)


def sources(limit: int) -> list[str]:
    """Python files of the installed packages, in the order of their names, up to so many bytes."""
    found, size = [], 0
    for path in sorted(Path(sysconfig.get_paths()["purelib"]).rglob("*.py")):
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue
        found.append(text)
        size += len(text)
        if size >= limit:
            break
    return found


def prose(path: Path, limit: int) -> list[str]:
    """Paragraphs of a file, neighbours together until they have a kilobyte, up to so many bytes."""
    found, document = [], ""
    with path.open(encoding="utf-8") as file:
        for paragraph in file.read(limit).split("\n\n"):
            document = f"{document}\n\n{paragraph}" if document else paragraph
            if len(document) > 1000:
                found.append(document)
                document = ""
    return found


def first(texts: list[str], limit: int) -> list[str]:
    sizes = itertools.accumulate(len(text) for text in texts)
    return [text for text, size in zip(texts, sizes, strict=True) if size <= limit] or texts[:1]


def measured(way: str, text: Path, tokenizer: Path, cores: int) -> dict[str, float]:
    """CPU seconds, wall seconds and peak memory of a way, in a process of its own."""
    command = [sys.executable, __file__, "--way", way, str(text), str(tokenizer), str(cores)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TOKENIZERS_PARALLELISM": "false"}
    )
    if done.returncode:
        sys.exit(f"bench: {way} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def work(way: str, text: str, tokenizer: str, cores: str) -> None:
    """The measured process."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: int(cores)])
    with tempfile.TemporaryDirectory() as folder:
        run = WAYS[way](Path(text), Path(tokenizer), int(cores), Path(folder))
        before, began = _cpu(), time.monotonic()
        result = run() or {}
        wall = time.monotonic() - began
    # Not ru_maxrss, which begins with the memory of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    print(json.dumps({"cpu": _cpu() - before, "wall": wall, "peak_mb": peak / 1e3, **result}))


def _cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(one.ru_utime + one.ru_stime for one in used)


def installed(way: str) -> str | None:
    """The version of a peer, None when it is absent."""
    try:
        return version({"delphi": "transformers"}.get(way, way))
    except PackageNotFoundError:
        return None


def end_to_end(name: str, home: Path, texts: list[str], size: str) -> list[Row]:
    from suite.data import tokenizer as tokenizers
    from suite.data.texts import Texts

    files = {}
    for kind, limit in (("fast", FAST_BYTES[size]), ("slow", SLOW_BYTES[size])):
        chosen = first(texts, limit)
        files[kind] = (home / f"{name}-{kind}.parquet", sum(len(text.encode()) for text in chosen) / 1e6)
        write_parquet(files[kind][0], chosen)
    tokenizers.save(tokenizers.train([Texts.of(first(texts, 4_000_000))], VOCAB), home / name)
    peers = {way: found for way in (*SLOW, "gigatoken") if (found := installed(way))}
    for way in {*SLOW, "gigatoken"} - peers.keys():
        print(f"bench: {way} is not installed and left out", file=sys.stderr)

    def rate(way: str, cores: int, seconds: str) -> float:
        path, megabytes = files["slow" if way in SLOW else "fast"]
        return megabytes / measured(way, path, home / name, cores)[seconds]

    turns = 1 if size == "quick" else 3
    rows = []
    for cores in (1, 2):
        seconds = "cpu" if cores == 1 else "wall"
        rates: dict[str, list[float]] = {way: [] for way in ("suite", *peers)}
        for _ in range(turns):
            for way, found in rates.items():
                found.append(rate(way, cores, seconds))
        unit = "MB/CPU-s" if cores == 1 else "MB/s"
        where = f"{name}, {cores} core{'s' * (cores > 1)}"
        rows.append(Row(f"{where}: text to shards", statistics.median(rates["suite"]), unit))
        for way, found in peers.items():
            ratio = statistics.median(a / b for a, b in zip(rates["suite"], rates[way], strict=True))
            goal = ">= 1.4" if way == "gigatoken" else ">= 35"
            rows.append(Row(f"{where}: times {way}", ratio, "ratio", goal, way, found))
    parts = [measured("parts", files["fast"][0], home / name, 1) for _ in range(turns)]
    rows.append(Row(f"{name}: whole / sum of parts", statistics.median(p["share"] for p in parts), "ratio", "<= 1.3"))
    for part in ("read", "encode", "write"):
        rows.append(
            Row(f"{name}: {part} alone", files["fast"][1] / statistics.median(p[part] for p in parts), "MB/CPU-s")
        )
    return rows


def growth(home: Path, size: str) -> list[Row]:
    """Rate and memory over the input's size, by stories that are made as they are read."""
    rows = []
    for megabytes in GROWTH[size]:
        spec = f"stories:{megabytes * 1_000_000 // BYTES_PER_STORY}"
        one = measured("suite", Path(spec), home / "stories", 2)
        rows.append(Row(f"growth, {megabytes} MB of stories: rate", megabytes / one["wall"], "MB/s"))
        rows.append(Row(f"growth, {megabytes} MB: largest process", one["peak_mb"], "MB", "<= 1000"))
    return rows


def main() -> None:
    options = arguments(__doc__ or "", prose="a text file of 110 MB or more, say of English books; its rows come first")
    size = "quick" if options.quick else "full"
    from suite.data import stories
    from suite.data.stories import StoriesSpec

    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        count = FAST_BYTES[size] // BYTES_PER_STORY
        began = time.process_time()
        texts = stories.read(StoriesSpec(count), "train", 0, count)
        made = FAST_BYTES[size] / 1e6 / (time.process_time() - began)
        rows = [Row("stories written, as Python strings", made, "MB/CPU-s")]
        if options.prose:
            rows += end_to_end("prose", home, prose(Path(options.prose), FAST_BYTES[size]), size)
        rows += end_to_end("sources", home, sources(FAST_BYTES[size]), size)
        rows += end_to_end("stories", home, texts, size)
        del texts
        rows += growth(home, size)
    show(rows, options.json)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--way"]:
        work(*sys.argv[2:])
    else:
        main()
