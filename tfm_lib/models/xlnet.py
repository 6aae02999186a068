"""XLNet (Yang et al. 2019): a language model that predicts a text's tokens in any order.

    XLNet
      embedding      token ids -> content vectors; attention knows by distance where tokens stand
      query_start    one learned vector: what the query stream holds before the first layer
      XLNetLayer     x num_layers: two streams through the same weights
      generator      the query stream -> logits; its matrix is the embedding's

An order is a factorisation order: row b predicts the token at position order[b, t] at turn t. The
text itself stands as it stands. Only the tokens of the last turns are predicted (section 2.3,
"partial prediction"); those of the turns before are their context.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.relative import RelativeMultiHeadAttention, relative_encoding
from tfm_lib.decoding import require_eval
from tfm_lib.layers.blocks import FeedForward, Residual
from tfm_lib.layers.checks import check_token_ids, is_traced


def permutation_masks(order: Tensor) -> tuple[Tensor, Tensor]:
    """Say who may see whom in a factorisation order (section 2.3): the two streams' masks.

    order: integers (batch, length), each row a permutation of the positions 0..length-1; position
    order[b, t] has turn t. Returns two boolean masks (batch, 1, length, length), True = may attend,
    rows and columns by position: the content stream sees what comes before in the order and itself,
    the query stream only what comes before. Raises ValueError if a row is no permutation.
    """
    if order.dim() != 2 or order.numel() == 0:
        raise ValueError(f"order must be (batch, length), got {tuple(order.shape)}")
    positions = torch.arange(order.size(1), device=order.device)
    wrong = (order.sort().values != positions).any(dim=1)  # (batch,)
    # While torch.compile records, no value can be read: then the order is believed.
    if not is_traced(order) and wrong.any():
        raise ValueError(
            f"each row of order must hold the positions 0..{len(positions) - 1} once, got "
            f"{order[wrong][0].tolist()}"
        )
    turn = order.argsort()  # (batch, length): when each position's turn comes
    later, earlier = turn[:, None, :, None], turn[:, None, None, :]
    return earlier <= later, earlier < later


class XLNetLayer(nn.Module):
    """Two streams, one set of weights: relative attention, then feed-forward (section 2.3).

    forward(content, query, targets, masks, positions) -> (content, query): content
    (batch, length, d_model) knows each token; query (batch, num_targets, d_model) stands for the
    tokens at the positions `targets` (batch, num_targets) without knowing them. Keys and values
    come from the content stream alone. masks: those of `permutation_masks`; positions: distances
    length - 1 to 1 - length, as for `RelativeMultiHeadAttention`. Post-norm, GELU.
    """

    def __init__(self, d_model: int, num_heads: int, d_ff: int, *, dropout: float = 0.1) -> None:
        super().__init__()
        self.attention = RelativeMultiHeadAttention(d_model, num_heads)
        self.feed_forward = FeedForward(d_model, d_ff, activation=F.gelu)
        residuals = [Residual(d_model, dropout=dropout) for _ in range(2)]
        for residual in residuals:
            residual.norm.eps = 1e-12
        self.residuals = nn.ModuleList(residuals)

    def forward(
        self,
        content: Tensor,
        query: Tensor,
        targets: Tensor,
        masks: tuple[Tensor, Tensor],
        positions: Tensor,
    ) -> tuple[Tensor, Tensor]:
        content_mask, query_mask = masks
        places = targets[..., None].expand_as(query)  # (batch, num_targets, d_model)

        def look(stream: Tensor, mask: Tensor) -> Tensor:
            return self.attention(stream, content, content, mask, positions=positions)[0]

        def look_from_targets(x: Tensor) -> Tensor:
            # Distances count from where a query stands: put each in its place, look, pick again.
            stream = torch.zeros_like(content).scatter(1, places, x)  # (batch, length, d_model)
            return look(stream, query_mask).gather(1, places)  # (batch, num_targets, d_model)

        around_attention, around_feed_forward = self.residuals
        seen = around_attention(content, lambda x: look(x, content_mask))
        guess = around_attention(query, look_from_targets)
        return tuple(around_feed_forward(x, self.feed_forward) for x in (seen, guess))


class XLNet(nn.Module):
    """A permutation language model (sections 2.2 and 2.3).

    forward(token_ids, order, num_targets) -> logits: ids and orders (batch, length); logits
    (batch, num_targets, vocab_size), one for each of the last num_targets turns, in turn order.
    Those of a turn depend on the tokens of the turns before it, on where they stand and on where
    the target stands, never on the target itself or on what comes later. The first of all turns
    sees nothing. Rows hold no padding.
    Raises ValueError if d_model is not divisible by num_heads and, on a call, if shapes differ,
    if a row of order is no permutation, for ids outside the vocabulary, or unless
    1 <= num_targets <= length.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        d_model: int,
        num_heads: int,
        num_layers: int,
        d_ff: int,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.query_start = nn.Parameter(torch.empty(1, d_model))
        self.dropout = nn.Dropout(dropout)
        self.layers = nn.ModuleList(
            XLNetLayer(d_model, num_heads, d_ff, dropout=dropout) for _ in range(num_layers)
        )
        self.generator = nn.Linear(d_model, vocab_size)
        self.generator.weight = self.embedding.weight
        for name, parameter in self.named_parameters():
            if parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, token_ids: Tensor, order: Tensor, num_targets: int) -> Tensor:
        _, query = self.streams(token_ids, order, num_targets)
        return self.generator(self.dropout(query))

    def streams(self, token_ids: Tensor, order: Tensor, num_targets: int) -> tuple[Tensor, Tensor]:
        """Both streams above the last layer; arguments and errors as for a call.

        Returns content (batch, length, d_model), by position, and query
        (batch, num_targets, d_model), by turn.
        """
        if token_ids.shape != order.shape:
            raise ValueError(
                f"token_ids {tuple(token_ids.shape)} and order {tuple(order.shape)} "
                "must both be (batch, length)"
            )
        check_token_ids(token_ids, self.embedding.num_embeddings)
        masks = permutation_masks(order)
        targets = last_turns(order, num_targets)
        content = self.dropout(self.embedding(token_ids))  # (batch, length, d_model)
        length, d_model = content.shape[1:]
        query = self.dropout(self.query_start.expand(*targets.shape, d_model))
        positions = relative_encoding(length - 1, 1 - length, d_model).to(content)
        for layer in self.layers:
            content, query = layer(content, query, targets, masks, positions)
        return content, query


def last_turns(order: Tensor, num_targets: int) -> Tensor:
    """The positions of the last num_targets turns: (batch, length) -> (batch, num_targets).

    Raises ValueError unless 1 <= num_targets <= length.
    """
    if not 1 <= num_targets <= order.size(1):
        raise ValueError(f"{num_targets=} must be from 1 to {order.size(1)}, the length")
    return order[:, -num_targets:]


def random_orders(batch: int, length: int, *, generator: torch.Generator | None = None) -> Tensor:
    """Draw a factorisation order for each row, all equally likely: integers (batch, length)."""
    return torch.rand(batch, length, generator=generator).argsort()


def turn_log_probs(model: nn.Module, token_ids: Tensor, order: Tensor, num_targets: int) -> Tensor:
    """Log-probability, in nats, of the token at each of the last num_targets turns.

    Returns (batch, num_targets). A row's sum is the log-likelihood of all its targets together,
    given its context: each is predicted from the context and from the targets before it (section
    2.3, equation 5). Errors as for `XLNet`.
    """
    log_probs = model(token_ids, order, num_targets).log_softmax(-1)
    labels = token_ids.gather(1, last_turns(order, num_targets))  # (batch, num_targets)
    return log_probs.gather(2, labels[..., None]).squeeze(2)


@torch.no_grad()
def fill_in(
    model: nn.Module,
    token_ids: Tensor,
    order: Tensor,
    num_targets: int,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw new tokens for the last num_targets turns, each given the context and those before it.

    Returns a copy of token_ids (batch, length); what stood at the targets has no influence, so any
    id will do there. Errors as for `XLNet`, and ValueError if the model is in training mode.
    """
    require_eval(model)
    filled, targets = token_ids.clone(), last_turns(order, num_targets)
    for turn in range(num_targets):
        probabilities = model(filled, order, num_targets)[:, turn].softmax(-1)  # (batch, vocab)
        drawn = torch.multinomial(probabilities, 1, generator=generator)  # (batch, 1)
        filled.scatter_(1, targets[:, turn : turn + 1], drawn)
    return filled
