"""Several documents in a row, each read as if it stood alone: as an evaluation reads it, from <bos>.

B batch, T time.
"""

from __future__ import annotations

import torch
from torch import Tensor


def isolated(ids_BT: Tensor, bos: int, eos: int) -> tuple[Tensor, Tensor]:
    """-> what the model reads in place of `ids_BT`, and the first position that every position sees, int64 [B, T].

    After an <eos> comes another document. The <eos> is still a target of the position before it; as an input it becomes
    the next document's <bos>, so that no target is lost and none is predicted from another document.
    """
    ends_BT = ids_BT == eos
    at_T = torch.arange(ids_BT.shape[1], device=ids_BT.device)
    starts_BT = torch.where(ends_BT, at_T, 0).cummax(1).values
    return ids_BT.masked_fill(ends_BT, bos), starts_BT
