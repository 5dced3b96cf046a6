"""The tokens that captions use: training holds only their rows of the table of token embeddings.

Nine tenths of a text tower's weights would otherwise be averaged and updated without ever changing.
"""

from collections.abc import Sequence

import torch
from transformers import CLIPTokenizer

from pretrain.captions import used_tokens


class CompactVocabulary:
    """Maps the vocabulary onto the tokens that captions use; ids keep their order, so <end> stays the largest."""

    def __init__(self, tokenizer: CLIPTokenizer, texts: Sequence[str]):
        self.tokenizer = tokenizer
        self.used = torch.tensor(used_tokens(tokenizer, texts))
        self.compact = torch.full((len(tokenizer),), -1)
        self.compact[self.used] = torch.arange(len(self.used))

    def __len__(self) -> int:
        return len(self.used)

    @property
    def eos_token_id(self) -> int:
        return int(self.compact[self.tokenizer.eos_token_id])

    def encode(self, texts: Sequence[str]) -> torch.Tensor:
        """Compact ids [texts, longest text]; what follows <end> is never attended to, so any length does."""
        ids = self.compact[self.tokenizer(list(texts), padding=True, return_tensors="pt")["input_ids"]]
        if (ids < 0).any():
            raise ValueError("a caption has tokens that CaptionSampler.all_texts does not list")
        return ids

    def expand(self, table: torch.Tensor) -> torch.Tensor:
        """[used, width] -> [vocabulary, width], zero in the rows of unused tokens."""
        full = table.new_zeros(len(self.tokenizer), table.shape[1])
        full[self.used] = table
        return full
