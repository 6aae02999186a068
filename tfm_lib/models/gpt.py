"""GPT: the decoder alone, a stack of causal self-attention that predicts the next token.

Radford et al. 2018 (GPT, post-norm) and 2019 (GPT-2, pre-norm, what stands here). There is no
encoder to look at, so a layer is an `EncoderLayer` under a causal mask.
"""

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tfm_lib.attention.functions import AttentionFunction, scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.positions import LearnedPositions
from tfm_lib.decoding import require_eval
from tfm_lib.layers.blocks import Encoder, EncoderLayer
from tfm_lib.layers.cache import LayerCache
from tfm_lib.layers.checks import check_token_ids
from tfm_lib.training import label_smoothing_loss

gelu_tanh = partial(F.gelu, approximate="tanh")


class GPT(nn.Module):
    """A causal language model, pre-norm (Radford et al. 2019, section 2.3).

    forward(token_ids) -> logits: ids (batch, length), length at most max_len; logits
    (batch, length, vocab_size), of which [:, i] predicts the token after token_ids[:, i] and
    depends on no later one. Embedding and output share one matrix. d_ff is 4 * d_model. Weights
    start with standard deviation (3 * d_model)**-0.5, which is GPT's 0.02 at GPT's width, and those
    that write into the residual stream with 1 / sqrt(2 * num_layers) of it.
    attention: every layer's attention function. Raises ValueError if d_model is not divisible by
    num_heads and, on a call, for more than max_len tokens and ids outside the vocabulary.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        max_len: int = 1024,
        d_model: int = 768,
        num_heads: int = 12,
        num_layers: int = 12,
        dropout: float = 0.1,
        attention: AttentionFunction = scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocab_size, d_model)
        self.positions = LearnedPositions(max_len, d_model)
        self.dropout = nn.Dropout(dropout)
        layers = [
            EncoderLayer(
                d_model,
                num_heads,
                4 * d_model,
                dropout=dropout,
                norm_first=True,
                activation=gelu_tanh,
                attention=attention,
            )
            for _ in range(num_layers)
        ]
        self.stack = Encoder(layers, nn.LayerNorm(d_model))
        self.generator = nn.Linear(d_model, vocab_size, bias=False)
        self.generator.weight = self.tokens.weight
        std = (3 * d_model) ** -0.5
        for name, parameter in self.named_parameters():
            if name.endswith(("out_proj.weight", "contract.weight")):
                nn.init.normal_(parameter, std=std * (2 * num_layers) ** -0.5)
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, token_ids: Tensor) -> Tensor:
        x = self.embed(token_ids)  # (batch, length, d_model)
        mask = causal_mask(token_ids.size(1), device=token_ids.device)  # (length, length)
        return self.generator(self.stack(x, mask))

    def embed(self, token_ids: Tensor, start: int = 0) -> Tensor:
        """Vectors (batch, length, d_model) of tokens and positions start, start + 1, ..."""
        check_token_ids(token_ids, self.tokens.num_embeddings)
        return self.dropout(self.positions(self.tokens(token_ids), start))


def next_token_loss(model: nn.Module, token_ids: Tensor) -> Tensor:
    """Mean cross-entropy of each token given those before it, in nats: a loss for `training.fit`.

    token_ids (batch, length + 1), without padding: the model reads all but the last column and must
    tell all but the first. Returns a scalar.
    """
    logits = model(token_ids[:, :-1])  # (batch, length, vocab_size)
    return label_smoothing_loss(logits, token_ids[:, 1:], pad_id=-1)  # -1 is no token: all count


@torch.no_grad()
def token_losses(model: nn.Module, blocks: Tensor, *, batch_size: int = 64) -> Tensor:
    """Cross-entropy of every single token in nats: (blocks, length + 1) ids -> (blocks, length).

    The exponential of the mean is the perplexity. ValueError if the model is in training mode.
    """
    require_eval(model)
    losses = [
        F.cross_entropy(model(batch[:, :-1]).transpose(1, 2), batch[:, 1:], reduction="none")
        for batch in blocks.split(batch_size)
    ]
    return torch.cat(losses)


def check_prompt(prompt_ids: Tensor, model: GPT) -> None:
    """Raise ValueError for a prompt that is empty, foreign or longer than the model reads."""
    check_token_ids(prompt_ids, model.tokens.num_embeddings, "prompt_ids")
    max_len = model.positions.embedding.num_embeddings
    if prompt_ids.size(1) > max_len:
        raise ValueError(
            f"prompt_ids hold {prompt_ids.size(1)} tokens, the model reads at most {max_len=}: "
            "keep the last ones"
        )


class RecomputedContinuation:
    """Read the whole text so far at every step: simple, and the cache's reference.

    A step for `tfm_lib.decoding` that continues a prompt, token ids (rows, prompt_len): the prompt
    takes the place of bos, whose id does not matter. Raises ValueError if the model is in training
    mode and, on a call, if the text passes the model's max_len.
    """

    def __init__(self, model: GPT, prompt_ids: Tensor) -> None:
        require_eval(model)
        check_prompt(prompt_ids, model)
        self.model, self.prompt_ids = model, prompt_ids

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        text_ids = torch.cat([self.prompt_ids, token_ids[:, 1:]], dim=1)  # (rows, length)
        return self.model(text_ids)[:, -1]  # (rows, vocab_size)

    def reorder(self, rows: Tensor) -> None:
        self.prompt_ids = self.prompt_ids[rows]


class CachedContinuation:
    """Read the new tokens alone, against cached keys and values: the prompt, then one at a time.

    Same arguments, results and errors as `RecomputedContinuation`; each call must bring new tokens.
    """

    def __init__(self, model: GPT, prompt_ids: Tensor) -> None:
        require_eval(model)
        check_prompt(prompt_ids, model)
        self.model, self.prompt_ids = model, prompt_ids
        self.length = 0  # tokens in the cache
        with torch.no_grad():
            nothing = model.tokens(prompt_ids[:, :0])  # (rows, 0, d_model)
            attentions = [layer.self_attention for layer in model.stack.layers]
            self.caches = [LayerCache(*each.project(nothing, nothing)) for each in attentions]

    @torch.no_grad()
    def __call__(self, token_ids: Tensor) -> Tensor:
        text_ids = torch.cat([self.prompt_ids, token_ids[:, 1:]], dim=1)  # (rows, length)
        start, length = self.length, text_ids.size(1)
        if length <= start:
            raise ValueError(f"the cache holds {start} tokens, the text only {length}")
        x = self.model.embed(text_ids[:, start:], start)  # (rows, new, d_model)
        mask = causal_mask(length, device=x.device)[start:]  # (new, length)
        for layer, cache in zip(self.model.stack.layers, self.caches, strict=True):
            x = self._run(layer, cache, x, mask)
        self.length = length
        return self.model.generator(self.model.stack.norm(x[:, -1]))  # (rows, vocab_size)

    def reorder(self, rows: Tensor) -> None:
        self.prompt_ids = self.prompt_ids[rows]
        for cache in self.caches:
            cache.reorder(rows)

    def _run(self, layer: EncoderLayer, cache: LayerCache, x: Tensor, mask: Tensor) -> Tensor:
        """The two sub-layers of `EncoderLayer.forward`, for the new positions."""

        def attend_to_text(x: Tensor) -> Tensor:
            keys, values = cache.extend(*layer.self_attention.project(x, x))
            return layer.self_attention.attend(x, keys, values, mask)[0]

        around_attention, around_feed_forward = layer.residuals
        return around_feed_forward(around_attention(x, attend_to_text), layer.feed_forward)
