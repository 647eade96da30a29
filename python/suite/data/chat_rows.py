"""Conversations to rows: the way of working of data/pack.py for them.

A conversation is a row, <bos> and its ids, cut after the row's length or filled up with padding; one without an answer
inside its row is left out, because nothing of it would be counted. Blocks are encoded anywhere and written in order, so
the bytes depend on the conversations, the tokenizer, the template and the row's length alone. What a killed job left is
made anew: conversations are few beside a corpus.
"""

from __future__ import annotations

import functools
import shutil
from typing import NamedTuple

import numpy as np

from suite import _core
from suite.base.errors import TokensError
from suite.data import answers, conversations
from suite.data.chat import Chat
from suite.data.encode import Job, loaded
from suite.data.formats import Block
from suite.data.journal import Counts
from suite.data.pack import MapInOrder, OnBlock, Work, Written
from suite.data.shards import ChatEntry, Shard

Span = tuple[int, int]


class Rows(NamedTuple):
    """A block's rows, ids [rows * (seq_len - 1)] without <bos>; of each its tokens before it was cut, and its answers.

    `left_out` conversations had none; `text_bytes` were read.
    """

    ids: np.ndarray
    lengths: np.ndarray
    answers: list[list[Span]]
    left_out: int
    text_bytes: int


def encode_block(block: Block, *, job: Job, template: str) -> Rows:
    """Reads and encodes one block; runs in any process."""
    chat = Chat(template, loaded(job.tokenizer, job.tokenizer_sha256), job.slow)
    content = job.shape.stride
    ids, lengths, spans, left_out, text_bytes = [np.empty(0, job.dtype)], [], [], 0, 0
    for texts in job.source.pieces(block):
        talks = [conversations.read(document) for document in texts.documents()]
        text_bytes += sum(len(text.encode()) for talk in talks for _, text in talk)
        for encoded in chat.encode(talks):
            inside = [(1 + first, 1 + min(last, content)) for first, last in encoded.answers if first < content]
            if not inside:
                left_out += 1
                continue
            row = np.full(content, job.pad, job.dtype)
            row[: len(encoded.ids)] = encoded.ids[:content]
            ids.append(row)
            lengths.append(len(encoded.ids))
            spans.append(inside)
    return Rows(np.concatenate(ids), np.array(lengths, np.uint32), spans, left_out, text_bytes)


def chat_pass(template: str, map_in_order: MapInOrder) -> Work:
    """A way of working for a source of conversations (data/conversations.py)."""

    def work(job: Job, blocks: list[Block], on_block: OnBlock) -> Written:
        if job.deduplicate:
            raise TokensError("conversations are not deduplicated; leave out --deduplicate")
        shutil.rmtree(job.part, ignore_errors=True)
        job.part.mkdir(parents=True)
        packer, index = job.packer(), _core.IndexWriter(job.part / f"{job.name}.documents")
        spans: list[list[Span]] = []
        left_out, all_counts = 0, []
        for rows in map_in_order(functools.partial(encode_block, job=job, template=template), blocks):
            packer.push(rows.ids)
            index.push(rows.lengths)
            spans += rows.answers
            left_out += rows.left_out
            inside = int(np.minimum(rows.lengths, job.shape.stride).sum())
            cut = int(rows.lengths.sum()) - inside
            all_counts.append(Counts(len(rows.ids), inside, len(rows.lengths), rows.text_bytes, cut, 0))
            on_block(all_counts[-1])
        shards, _ = packer.finish()
        written = answers.write(job.part / f"{job.name}.answers", spans)
        counted = sum(last - first for row in spans for first, last in row)
        text = Chat(template, loaded(job.tokenizer, job.tokenizer_sha256)).text
        entry = ChatEntry(text, Shard(*written), counted, left_out)
        index_file = Shard(*index.finish())
        return Written([Shard(*shard) for shard in shards], index_file, Counts.total(all_counts), entry)

    return work
