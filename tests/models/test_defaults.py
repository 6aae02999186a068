"""What a model is when nothing is said: the published one. Built on "meta", without memory."""

import pytest
import torch
from torch import nn

from tfm_lib.models.bert import Bert
from tfm_lib.models.dalle import DALLE
from tfm_lib.models.gpt import GPT
from tfm_lib.models.transformer import InputEmbedding, Transformer
from tfm_lib.models.transformer_xl import TransformerXL
from tfm_lib.models.xlnet import XLNet

SIZES = {"d_model": 12, "num_heads": 2, "num_layers": 2, "d_ff": 14}
DEFAULTS = {
    "transformer": lambda: Transformer(37000, 37000),
    "embedding": lambda: InputEmbedding(11, 6),
    "gpt": lambda: GPT(50257),
    "bert": lambda: Bert(30522),
    "transformer-xl": lambda: TransformerXL(11, memory_len=4, **SIZES),
    "xlnet": lambda: XLNet(11, **SIZES),
    "dall-e": lambda: DALLE(
        11, 5, text_len=3, rows=2, columns=4, attentions=[None], d_model=12, num_heads=2, d_ff=14
    ),
}


def built(name):
    with torch.device("meta"):
        return DEFAULTS[name]()


def count(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", DEFAULTS)
def test_one_entry_in_ten_is_dropped(name):
    shares = {part.p for part in built(name).modules() if isinstance(part, nn.Dropout)}
    assert shares == {0.1}


@pytest.mark.parametrize(("name", "parameters"), [("gpt", 124_439_808), ("bert", 109_482_240)])
def test_as_many_weights_as_the_published_model(name, parameters):
    """GPT-2's and BERT-base's files hold as many numbers, the tied matrix counted once."""
    assert count(built(name)) == parameters


def test_the_transformer_is_the_papers_base_model():
    """Table 3: 6 layers, d_model 512, d_ff 2048, 8 heads."""
    model = built("transformer")
    assert len(model.encoder.layers) == len(model.decoder.layers) == 6
    for layer in (*model.encoder.layers, *model.decoder.layers):
        assert layer.self_attention.num_heads == 8
        assert layer.feed_forward.expand.weight.shape == (2048, 512)
        assert not layer.residuals[0].norm_first
    assert model.generator.weight is model.tgt_embedding.tokens.weight
    assert model.generator.weight is not model.src_embedding.tokens.weight


def test_both_lengths_of_the_published_models():
    assert len(built("gpt").positions.embedding.weight) == 1024
    assert len(built("bert").embedding.positions.embedding.weight) == 512
