"""Encoder-decoder RNNs: one sequence in, another out, through a fixed vector or through attention.

    src_ids  (batch, src_len) token ids; pads, if any, at the end of a row
    tgt_ids  (batch, tgt_len) token ids, bos first; logits[:, i] predicts what follows tgt_ids[:, i]

A decoder has two verbs. `start(encoded)` picks what it keeps of the source: its state, a tuple of
tensors whose first dimension is the batch. `decoder(tgt_ids, state) -> (logits, state)` reads on
from there, all tokens at once in training (teacher forcing) or one by one in decoding.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tfm_lib.attention.functions import AttentionFunction
from tfm_lib.attention.recording import recordable
from tfm_lib.decoding import require_eval
from tfm_lib.layers.checks import check_padding, check_token_ids, check_tokens_left
from tfm_lib.layers.recurrent import GRU, Bidirectional


class Encoded(NamedTuple):
    """What the encoder makes of a batch of sources."""

    memory: Tensor  # (batch, src_len, hidden_size), the outputs at every source position
    state: Tensor  # (batch, hidden_size), the final state: the fixed vector
    mask: Tensor  # (batch, 1, src_len) boolean, True = a token, so it may be attended


class RecurrentEncoder(nn.Module):
    """Read the source in both directions: src_ids (batch, src_len) -> `Encoded`.

    Each direction has half of hidden_size, so memory and final state are hidden_size wide and start
    a decoder of that width as they are. Cho et al. 2014 read in one direction, Bahdanau et al. 2015
    (section 3.2) in both. dropout: the share of embedding entries set to zero in training. Raises
    ValueError if hidden_size is odd; on a call, for ids outside the vocabulary, a row of pads only,
    or a pad before a token.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_size: int,
        hidden_size: int,
        *,
        dropout: float = 0.0,
        pad_id: int = 0,
    ) -> None:
        super().__init__()
        if hidden_size % 2 != 0:
            raise ValueError(f"hidden_size={hidden_size} must be even: half for each direction")
        self.hidden_size = hidden_size
        self.pad_id = pad_id
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.dropout = nn.Dropout(dropout)
        self.rnn = Bidirectional(
            GRU(embed_size, hidden_size // 2), GRU(embed_size, hidden_size // 2)
        )

    def forward(self, src_ids: Tensor) -> Encoded:
        check_token_ids(src_ids, self.embedding.num_embeddings, "src_ids")
        mask = src_ids != self.pad_id  # (batch, src_len)
        lengths = mask.sum(dim=1)  # (batch,)
        check_padding(src_ids, self.pad_id, "src_ids")
        check_tokens_left(src_ids, self.pad_id, "src_ids")
        memory, final = self.rnn(self.dropout(self.embedding(src_ids)), lengths)
        return Encoded(memory, torch.cat(final, dim=-1), mask[:, None])


class RecurrentDecoder(nn.Module):
    """Write the target from one fixed vector (Sutskever et al. 2014, with a GRU).

    The encoder's final state starts the recurrence; nothing else of the source comes in.
    dropout: the share of entries set to zero in training, in the embeddings and before the
    generator. Raises ValueError for ids outside the vocabulary or a batch other than the state's.
    """

    def __init__(
        self, vocab_size: int, embed_size: int, hidden_size: int, *, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.embedding = nn.Embedding(vocab_size, embed_size)
        self.dropout = nn.Dropout(dropout)
        self.rnn = GRU(embed_size, hidden_size)
        self.generator = nn.Linear(hidden_size, vocab_size)

    def start(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """Keep the final state alone: (h,), h (batch, hidden_size)."""
        return (encoded.state,)

    def forward(
        self, tgt_ids: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits (batch, tgt_len, vocab_size) and the state after the last token."""
        (h,) = state
        outputs, h = self.read(tgt_ids, h)
        return self.generator(self.dropout(outputs)), (h,)

    def read(self, tgt_ids: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Run the recurrence over the target: outputs (batch, tgt_len, hidden_size), last h."""
        check_token_ids(tgt_ids, self.embedding.num_embeddings, "tgt_ids")
        if len(tgt_ids) != len(h):
            raise ValueError(f"{len(h)} sources, but {len(tgt_ids)} targets in one batch")
        return self.rnn(self.dropout(self.embedding(tgt_ids)), None, h)


class AttentionDecoder(RecurrentDecoder):
    """Write the target while looking back at every source position (Luong et al. 2015, section 3).

    The recurrence runs over the target first; then all its outputs, as queries, attend to the
    memory, as keys and values, in one call. A layer combines each context with its output.
    attention: any attention function or module; it gets query (batch, tgt_len, hidden_size), key
    and value (batch, src_len, hidden_size) and mask (batch, 1, src_len). It sees one query at a
    time in decoding, so it must not read a meaning into a query's index. Errors as in
    `RecurrentDecoder`.
    """

    def __init__(
        self,
        vocab_size: int,
        embed_size: int,
        hidden_size: int,
        *,
        attention: AttentionFunction,
        dropout: float = 0.0,
    ) -> None:
        super().__init__(vocab_size, embed_size, hidden_size, dropout=dropout)
        self.attention = recordable(attention)
        self.combine = nn.Linear(2 * hidden_size, hidden_size, bias=False)  # W_c, equation 5

    def start(self, encoded: Encoded) -> tuple[Tensor, ...]:
        """Keep the final state, the memory and its mask."""
        return encoded.state, encoded.memory, encoded.mask

    def forward(
        self, tgt_ids: Tensor, state: tuple[Tensor, ...]
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return logits (batch, tgt_len, vocab_size) and the state after the last token."""
        h, memory, mask = state
        outputs, h = self.read(tgt_ids, h)  # (batch, tgt_len, hidden_size)
        context, _ = self.attention(outputs, memory, memory, mask)  # as outputs
        combined = torch.tanh(self.combine(torch.cat([context, outputs], dim=-1)))
        return self.generator(self.dropout(combined)), (h, memory, mask)


class Seq2Seq(nn.Module):
    """An encoder and either decoder: (src_ids, tgt_ids) -> logits (batch, tgt_len, vocab_size).

    Raises ValueError if their widths differ, and what encoder and decoder raise.
    """

    def __init__(self, encoder: RecurrentEncoder, decoder: RecurrentDecoder) -> None:
        super().__init__()
        if encoder.hidden_size != decoder.hidden_size:
            raise ValueError(
                f"the encoder's hidden_size={encoder.hidden_size} must equal the decoder's "
                f"hidden_size={decoder.hidden_size}, whose state it starts"
            )
        self.encoder = encoder
        self.decoder = decoder

    def forward(self, src_ids: Tensor, tgt_ids: Tensor) -> Tensor:
        logits, _ = self.decoder(tgt_ids, self.decoder.start(self.encoder(src_ids)))
        return logits


class RecurrentStep:
    """A decoding step that keeps the decoder's state, so each call reads the newest token alone.

    step(token_ids (rows, length), all tokens so far) -> logits (rows, vocab_size) for the next one;
    each call must bring exactly one token more than the last. `reorder(rows)` makes row i continue
    what was row rows[i]. Raises ValueError if the model is in training mode or a prefix has another
    length, and what the model does.
    """

    @torch.no_grad()
    def __init__(self, model: Seq2Seq, src_ids: Tensor) -> None:
        require_eval(model)
        self.decoder = model.decoder
        self.state = model.decoder.start(model.encoder(src_ids))
        self.length = 0  # target tokens read so far

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        if token_ids.size(1) != self.length + 1:
            raise ValueError(
                f"the state has read {self.length} tokens, so the prefix must have "
                f"{self.length + 1}, got {token_ids.size(1)}"
            )
        logits, self.state = self.decoder(token_ids[:, -1:], self.state)  # (rows, 1, vocab_size)
        self.length += 1
        return logits[:, 0]

    def reorder(self, rows: Tensor) -> None:
        self.state = tuple(part[rows] for part in self.state)
