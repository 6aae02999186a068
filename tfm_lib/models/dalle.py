"""DALL-E (Ramesh et al. 2021): pictures become codes, and one Transformer models text and codes.

    DiscreteAutoencoder   stage one: picture <-> grid of codes (loss: `autoencoder_loss`)
    DALLE                 stage two: text and codes as one stream (loss: `dalle_loss`)
    ImageStep             the stream as a step for `decoding`: text in, codes out

Both stages are trained apart: the second sees a picture only as its codes.
"""

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.functions import AttentionFunction
from tfm_lib.decoding import require_eval
from tfm_lib.layers.blocks import Encoder, EncoderLayer
from tfm_lib.layers.checks import check_token_ids


class DiscreteAutoencoder(nn.Module):
    """Write a picture as a grid of codes and read it back: stage one (section 2.1).

    forward(images, temperature) -> a relaxed reconstruction, of the images' shape, and the logits:
    images (batch, height, width), grey, 0 to 1, both sides even; logits (batch, rows, columns,
    codebook_size) with rows = height / 2 and columns = width / 2. Each place of the grid gets a mix
    of code vectors, weighted by softmax((logits + Gumbel noise) / temperature): one code in the
    limit of temperature 0 (Jang et al. 2017). Raises ValueError for images of another shape.
    """

    def __init__(self, codebook_size: int, hidden_size: int = 64) -> None:
        super().__init__()
        self.codebook_size = codebook_size
        self.encoder = nn.Sequential(
            nn.Conv2d(1, hidden_size, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_size, hidden_size, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(hidden_size, codebook_size, 1),
        )
        self.codebook = nn.Embedding(codebook_size, hidden_size)
        self.decoder = nn.Sequential(
            nn.Conv2d(hidden_size, hidden_size, 3, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(hidden_size, 1, 4, stride=2, padding=1),
        )

    def forward(self, images: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
        logits = self.logits(images)
        return self.paint(F.gumbel_softmax(logits, tau=temperature)), logits

    def logits(self, images: Tensor) -> Tensor:
        """Score every code at every place of the grid: (batch, rows, columns, codebook_size)."""
        if images.dim() != 3 or images.size(1) % 2 or images.size(2) % 2:
            raise ValueError(
                f"images must be (batch, height, width), both sides even, got {tuple(images.shape)}"
            )
        return self.encoder(images[:, None]).permute(0, 2, 3, 1)

    def paint(self, mix: Tensor) -> Tensor:
        """Paint images (batch, height, width) from code weights (batch, rows, columns, codes)."""
        vectors = mix @ self.codebook.weight  # (batch, rows, columns, hidden_size)
        return self.decoder(vectors.permute(0, 3, 1, 2))[:, 0]

    def encode(self, images: Tensor) -> Tensor:
        """Write images as codes (batch, rows, columns): the likeliest, without noise."""
        return self.logits(images).argmax(-1)

    def decode(self, codes: Tensor) -> Tensor:
        """Read codes (batch, rows, columns) back as images (batch, height, width)."""
        return self.paint(F.one_hot(codes, self.codebook_size).to(self.codebook.weight.dtype))


def autoencoder_loss(beta: float) -> Callable[[DiscreteAutoencoder, tuple[Tensor, float]], Tensor]:
    """Return loss(model, (images, temperature)): squared error + beta * KL(codes || uniform).

    Both are means, over pixels and over places of the grid; the KL is in nats. The uniform prior
    over the codes is the paper's (section 2.1); it keeps the codebook in use.
    """

    def loss(model: DiscreteAutoencoder, batch: tuple[Tensor, float]) -> Tensor:
        images, temperature = batch
        painted, logits = model(images, temperature)
        log_probs = logits.log_softmax(-1)  # (batch, rows, columns, codes)
        entropy = -(log_probs.exp() * log_probs).sum(-1)  # (batch, rows, columns)
        return F.mse_loss(painted, images) + beta * (math.log(logits.size(-1)) - entropy).mean()

    return loss


class DALLE(nn.Module):
    """One causal Transformer over text_len text ids, then a grid of image codes (section 2.2).

    forward(token_ids) -> logits: ids (batch, length), length <= size = text_len + rows * columns;
    logits (batch, length, text_vocab_size + codebook_size), logits[:, i] predicts the token after
    token_ids[:, i]. Image code k has the id text_vocab_size + k (see `join`). A text token's
    position is one learned vector, an image token's the sum of a row's and a column's (appendix B).

    attentions: one attention function a layer, each of which must be causal (`pattern_attention`).
    Raises ValueError if d_model is not divisible by num_heads and, on a call, for a stream that is
    empty or longer than size, or for ids outside the vocabulary.
    """

    def __init__(
        self,
        text_vocab_size: int,
        codebook_size: int,
        *,
        text_len: int,
        rows: int,
        columns: int,
        attentions: Iterable[AttentionFunction],
        d_model: int = 64,
        num_heads: int = 4,
        d_ff: int = 256,
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.text_vocab_size, self.text_len = text_vocab_size, text_len
        self.size = text_len + rows * columns
        self.tokens = nn.Embedding(text_vocab_size + codebook_size, d_model)
        self.text_positions = nn.Embedding(text_len, d_model)
        self.row_positions = nn.Embedding(rows, d_model)
        self.column_positions = nn.Embedding(columns, d_model)
        self.dropout = nn.Dropout(dropout)
        self.encoder = Encoder(
            (
                EncoderLayer(
                    d_model,
                    num_heads,
                    d_ff,
                    dropout=dropout,
                    norm_first=True,
                    attention=attention,
                )
                for attention in attentions
            ),
            nn.LayerNorm(d_model),
        )
        self.generator = nn.Linear(d_model, text_vocab_size + codebook_size)
        for module in self.children():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.1)

    def forward(self, token_ids: Tensor) -> Tensor:
        vectors = self.dropout(self.embed(token_ids))  # (batch, length, d_model)
        return self.generator(self.encoder(vectors))

    def embed(self, token_ids: Tensor) -> Tensor:
        """Token vectors plus positions: (batch, length) -> (batch, length, d_model)."""
        check_token_ids(token_ids, self.tokens.num_embeddings)
        if token_ids.size(1) > self.size:
            raise ValueError(
                f"token_ids must be (batch, length) with 1 to {self.size} columns, "
                f"got {tuple(token_ids.shape)}"
            )
        grid = self.row_positions.weight[:, None] + self.column_positions.weight
        positions = torch.cat([self.text_positions.weight, grid.flatten(0, 1)])  # (size, d_model)
        return self.tokens(token_ids) + positions[: token_ids.size(1)]

    def join(self, text_ids: Tensor, codes: Tensor) -> Tensor:
        """Make one stream of text ids (batch, text_len) and codes (batch, any number of them)."""
        if text_ids.size(1) != self.text_len:
            raise ValueError(
                f"text_ids have {text_ids.size(1)} columns, must be text_len={self.text_len}"
            )
        return torch.cat([text_ids, codes + self.text_vocab_size], dim=1)


def dalle_loss(text_weight: float = 1 / 8) -> Callable[[DALLE, Tensor], Tensor]:
    """Return loss(model, token_ids (batch, size)): weighted cross-entropy of text and of image.

    Means over each kind of token, text times text_weight and image times 1 - text_weight; the
    paper's weights are 1/8 and 7/8 (section 2.2). The first text token is given, not predicted, so
    a call raises ValueError unless the model's text_len is 2 or more.
    """

    def loss(model: DALLE, token_ids: Tensor) -> Tensor:
        if model.text_len < 2:
            raise ValueError(f"text_len={model.text_len} must be 2 or more: no text is predicted")
        logits = model(token_ids[:, :-1])  # (batch, size - 1, vocab)
        losses = F.cross_entropy(logits.transpose(1, 2), token_ids[:, 1:], reduction="none")
        text, image = losses.tensor_split([model.text_len - 1], dim=1)
        return text_weight * text.mean() + (1 - text_weight) * image.mean()

    return loss


class ImageStep:
    """A step for `decoding`: given text and the codes drawn so far, the logits of the next code.

    stream: (rows, text_len or more), text ids and any codes that are given, from `DALLE.join`.
    Decoding starts with a token of its own, whose id does not matter here; the tokens it appends
    are codes, 0 to codebook_size - 1: no text can be drawn. Raises ValueError if the model is in
    training mode, or for a stream without its whole text.
    """

    def __init__(self, model: DALLE, stream: Tensor) -> None:
        require_eval(model)
        if stream.size(1) < model.text_len:
            raise ValueError(
                f"stream has {stream.size(1)} columns, must have text_len={model.text_len} or more"
            )
        self.model, self.stream = model, stream

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        codes = token_ids[:, 1:] + self.model.text_vocab_size  # (rows, codes drawn so far)
        logits = self.model(torch.cat([self.stream, codes], dim=1))[:, -1]  # (rows, vocab)
        return logits[:, self.model.text_vocab_size :]  # (rows, codebook_size)

    def reorder(self, rows: Tensor) -> None:
        self.stream = self.stream[rows]
