# pyright: reportMissingImports=false, reportArgumentType=false, reportCallIssue=false
"""The ways that bench/data.py compares. Each imports and warms up, and returns the work to be measured.

A row is <bos> and seq_len - 1 tokens of the stream in which <eos> ends every document, but where a peer's own way is
another one.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

SEQ_LEN = 512
Work = Callable[[], dict[str, float] | None]


def suite(text: Path, tokenizer_dir: Path, cores: int, out: Path) -> Work:
    import pyarrow.parquet  # noqa: F401

    from suite.data import encode, pack, tokenizer
    from suite.data.source import Source
    from suite.tokenize import way_of_working

    tokenizer.load(tokenizer_dir)

    def run() -> None:
        work = way_of_working("local", cores)
        pack.tokenize(Source(str(text)), tokenizer.load(tokenizer_dir), out, encode.Shape(SEQ_LEN), work, name="train")

    return run


def parts(text: Path, tokenizer_dir: Path, cores: int, out: Path) -> Work:
    """Reading the column, encoding in memory and writing the tokens, each alone, and the whole after them."""
    import numpy as np

    from suite import _core
    from suite.data import tokenizer
    from suite.data.source import Source

    source, encoder = Source(str(text)), tokenizer.load(tokenizer_dir)
    next(source.pieces(source.blocks()[0]))
    whole = suite(text, tokenizer_dir, 1, out / "whole")

    def run() -> dict[str, float]:
        found: dict[str, float] = {}
        began = time.process_time()

        def lap(name: str) -> None:
            nonlocal began
            found[name] = time.process_time() - began
            began = time.process_time()

        texts = list(source.texts())
        lap("read")
        ids = np.concatenate([encoder.stream(one) for one in texts])
        lap("encode")
        special = encoder.special
        packer = _core.Packer(
            out,
            "alone",
            bos=special.bos,
            vocab_size=encoder.vocab_size,
            seq_len=SEQ_LEN,
            overlap=0,
            rows_per_shard=200_000,
        )
        packer.push(ids)
        packer.finish()
        lap("write")
        whole()
        lap("whole")
        return {**found, "share": found["whole"] / (found["read"] + found["encode"] + found["write"])}

    return run


def delphi(text: Path, tokenizer_dir: Path, cores: int, out: Path) -> Work:
    from datasets import Dataset, disable_progress_bars
    from transformers import AutoTokenizer

    disable_progress_bars()
    encoder: Any = AutoTokenizer.from_pretrained(tokenizer_dir)
    encoder(["warm up"])
    rows = _column(text)

    def run() -> None:
        stream: collections.deque[int] = collections.deque()
        chunks: list[list[int]] = []
        for start in range(0, len(rows), 50):
            for ids in encoder(rows[start : start + 50], add_special_tokens=False)["input_ids"]:
                stream.extend(ids)
                stream.append(encoder.eos_token_id)
            while len(stream) >= SEQ_LEN - 1:
                chunks.append([encoder.bos_token_id, *(stream.popleft() for _ in range(SEQ_LEN - 1))])
        Dataset.from_dict({"tokens": chunks}).to_parquet(out / "train.parquet")

    return run


def datasets(text: Path, tokenizer_dir: Path, cores: int, out: Path) -> Work:
    from datasets import disable_progress_bars, load_dataset
    from transformers import AutoTokenizer

    disable_progress_bars()
    encoder: Any = AutoTokenizer.from_pretrained(tokenizer_dir)
    bos, eos, content = encoder.bos_token_id, encoder.eos_token_id, SEQ_LEN - 1

    def encode(batch: dict[str, list[str]]) -> dict[str, Any]:
        ids = encoder(batch["text"], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return {"input_ids": [[*one, eos] for one in ids]}

    def group(batch: dict[str, Any]) -> dict[str, Any]:
        stream = [token for one in batch["input_ids"] for token in one]
        return {"tokens": [[bos, *stream[i : i + content]] for i in range(0, len(stream) - content + 1, content)]}

    rows: Any = load_dataset("parquet", data_files=str(text), split="train", cache_dir=str(out / "cache"))

    def run() -> None:
        processes = {"num_proc": cores} if cores > 1 else {}
        encoded = rows.map(encode, batched=True, remove_columns=["text"], **processes)
        encoded.map(group, batched=True, remove_columns=["input_ids"], **processes).to_parquet(out / "train.parquet")

    return run


def datatrove(text: Path, tokenizer_dir: Path, cores: int, out: Path) -> Work:
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.readers import ParquetReader
    from datatrove.pipeline.tokens import DocumentTokenizer

    def run() -> None:
        LocalPipelineExecutor(
            pipeline=[
                ParquetReader(str(text.parent), glob_pattern=text.name, text_key="text"),
                DocumentTokenizer(
                    str(out / "tokens"),
                    str(tokenizer_dir / "tokenizer.json"),
                    eos_token="<eos>",
                    shuffle_documents=False,
                ),
            ],
            logging_dir=str(out / "logs"),
            tasks=1,  # one file is one task: it cannot be divided
        ).run()

    return run


def gigatoken(text: Path, tokenizer_dir: Path, cores: int, out: Path) -> Work:
    import awkward
    import gigatoken as giga
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq
    from tokenizers import Tokenizer

    encoder = giga.Tokenizer(str(tokenizer_dir / "tokenizer.json"))
    reference = Tokenizer.from_file(str(tokenizer_dir / "tokenizer.json"))
    bos, eos = (reference.token_to_id(name) for name in ("<bos>", "<eos>"))
    assert bos is not None and eos is not None
    content = SEQ_LEN - 1

    def run() -> None:
        schema = pa.schema({"tokens": pa.list_(pa.uint16(), SEQ_LEN)})
        carry = np.empty(0, np.uint16)
        options: Any = {"compression": "zstd", "use_dictionary": False, "column_encoding": "BYTE_STREAM_SPLIT"}
        with pq.ParquetWriter(out / "train.parquet", schema, **options) as writer:
            for batch in pq.ParquetFile(text).iter_batches(4096, columns=["text"]):
                column = batch.column(0).cast(pa.large_string())
                _, edges, data = column.buffers()
                offsets = np.frombuffer(edges, np.int64)[: len(column) + 1]
                layout = awkward.contents.ListOffsetArray(
                    awkward.index.Index64(offsets),
                    awkward.contents.NumpyArray(np.frombuffer(data, np.uint8), parameters={"__array__": "char"}),
                    parameters={"__array__": "string"},
                )
                ids = encoder.encode_batch(awkward.Array(layout))
                counts = awkward.to_numpy(awkward.num(ids))
                flat = awkward.to_numpy(awkward.flatten(ids)).astype(np.uint16)
                ends = np.cumsum(counts)
                stream = np.concatenate([carry, np.insert(flat, ends, eos)])
                whole = len(stream) // content * content
                carry = stream[whole:]
                rows = np.empty((whole // content, SEQ_LEN), np.uint16)
                rows[:, 0] = bos
                rows[:, 1:] = stream[:whole].reshape(-1, content)
                values = pa.Array.from_buffers(pa.uint16(), rows.size, [None, pa.py_buffer(rows)])
                writer.write_table(pa.table([pa.FixedSizeListArray.from_arrays(values, SEQ_LEN)], schema=schema))

    return run


def _column(text: Path) -> list[str]:
    import pyarrow.parquet as pq

    return pq.read_table(text, columns=["text"])["text"].to_pylist()


WAYS: dict[str, Callable[[Path, Path, int, Path], Work]] = {
    "suite": suite,
    "parts": parts,
    "delphi": delphi,
    "datasets": datasets,
    "datatrove": datatrove,
    "gigatoken": gigatoken,
}
