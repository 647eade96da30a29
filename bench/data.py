"""Tokenization, text to shards, against the datasets library's way (map with a batched tokenizer, then group_texts).

Both read the same jsonl file of stories with the same tokenizer and write parquet; wall seconds of whole calls in
one process, in turns, medians. Also the speed of the story generator.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path

from rows import Row, arguments, show

from suite.data import pack, stories, tokenizer
from suite.data.source import Source
from suite.data.stories import StoriesSpec
from suite.data.texts import Texts

SEQ_LEN, VOCAB = 512, 4096


def with_datasets(text: Path, tokenizer_dir: Path, out: Path) -> None:
    import datasets
    from transformers import AutoTokenizer

    datasets.disable_progress_bars()
    encoder = AutoTokenizer.from_pretrained(tokenizer_dir)

    def encode(batch):
        ids = encoder(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*one, encoder.eos_token_id] for one in ids]}

    def group(batch):
        stream = [token for one in batch["input_ids"] for token in one]
        content = SEQ_LEN - 1
        starts = range(0, len(stream) - content + 1, content)
        return {"tokens": [[encoder.bos_token_id, *stream[start : start + content]] for start in starts]}

    rows = datasets.load_dataset("json", data_files=str(text), split="train", cache_dir=str(out / "cache"))
    rows = rows.map(encode, batched=True, remove_columns=["text"])
    rows.map(group, batched=True, remove_columns=["input_ids"]).to_parquet(out / "train.parquet")


def with_suite(text: Path, tokenizer_dir: Path, out: Path) -> None:
    encoder = tokenizer.load(tokenizer_dir)
    pack.tokenize(Source(str(text)), encoder, out, pack.Shape(SEQ_LEN), pack.one_pass(map), name="train")


def seconds_of(call, *arguments) -> float:
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        call(*arguments, Path(folder))
        return time.monotonic() - began


def main() -> None:
    options = arguments(__doc__ or "")
    import datasets

    count = 10_000 if options.quick else 40_000
    spec = StoriesSpec(count)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        began = time.monotonic()
        texts = stories.read(spec, "train", 0, count)
        made = time.monotonic() - began
        text_bytes = sum(map(len, texts))
        (home / "text.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        tokenizer.save(tokenizer.train([Texts.of(texts[:3000])], VOCAB), home / "tokenizer")
        turns = [
            [seconds_of(call, home / "text.jsonl", home / "tokenizer") for call in (with_suite, with_datasets)]
            for _ in range(2 if options.quick else 3)
        ]
    ours, theirs = (statistics.median(times) for times in zip(*turns, strict=True))
    megabytes = text_bytes / 1e6
    peer = {"peer": "datasets map + group_texts", "version": datasets.__version__}
    show(
        [
            Row("stories written", megabytes / made, "MB/s"),
            Row("text to shards, one process", megabytes / ours, "MB/s"),
            Row("text to shards: times datasets", theirs / ours, "ratio", None, **peer),
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
