"""The questions that every model answers alike: wrong ids, padding, copies, precision, tracing."""

import copy
import pickle
import re
import warnings

import pytest
import torch
from torch import nn

from tfm_lib.attention.functions import Attention, dot_score
from tfm_lib.attention.image import column_mask, pattern_attention
from tfm_lib.attention.sparse import strided_attention
from tfm_lib.models.bert import BertForPreTraining
from tfm_lib.models.dalle import DALLE
from tfm_lib.models.gpt import GPT, CachedContinuation, RecomputedContinuation
from tfm_lib.models.seq2seq import AttentionDecoder, RecurrentDecoder, RecurrentEncoder, Seq2Seq
from tfm_lib.models.sparse_transformer import SparseTransformer
from tfm_lib.models.transformer import Transformer
from tfm_lib.models.transformer_xl import TransformerXL
from tfm_lib.models.xlnet import XLNet
from tfm_lib.translation.checkpoints import load_weights, weights_of

VOCAB, LENGTH = 17, 7
SIZES = {"d_model": 12, "num_heads": 2, "num_layers": 2, "dropout": 0.0}


class TargetSide(nn.Module):
    """A model of pairs as one of single texts: the same ids are source and target."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, token_ids):
        return self.model(token_ids, token_ids)


class Permuted(nn.Module):
    """XLNet predicting each text from left to right."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, token_ids):
        places = torch.arange(token_ids.size(-1), device=token_ids.device)
        return self.model(token_ids, places.expand(token_ids.shape), token_ids.size(-1))


def rnn(decoder, **options):
    return TargetSide(Seq2Seq(RecurrentEncoder(VOCAB, 6, 10), decoder(VOCAB, 6, 10, **options)))


MODELS = {
    "rnn": lambda: rnn(RecurrentDecoder),
    "rnn with attention": lambda: rnn(AttentionDecoder, attention=Attention(dot_score)),
    "transformer": lambda: TargetSide(Transformer(VOCAB, VOCAB, d_ff=14, **SIZES)),
    "gpt": lambda: GPT(VOCAB, max_len=11, **SIZES),
    "bert": lambda: BertForPreTraining(VOCAB, d_ff=14, max_len=11, **SIZES),
    "sparse transformer": lambda: SparseTransformer(
        VOCAB, max_len=11, stride=3, attentions=[strided_attention(3)], **SIZES
    ),
    "transformer-xl": lambda: TransformerXL(VOCAB, d_ff=14, memory_len=4, **SIZES),
    "xlnet": lambda: Permuted(XLNet(VOCAB, d_ff=14, **SIZES)),
    "dall-e": lambda: DALLE(
        VOCAB - 5,
        5,
        text_len=3,
        rows=2,
        columns=4,
        attentions=[pattern_attention(column_mask(3, 2, 4))] * 2,
        d_model=12,
        num_heads=2,
        d_ff=14,
        dropout=0.0,
    ),
}
PADDED = ("rnn", "rnn with attention", "transformer", "bert")  # the models that know a pad
every_model = pytest.mark.parametrize("name", MODELS)


def built(name):
    torch.manual_seed(3)
    return MODELS[name]().eval()


def ids(rows=3, length=LENGTH):
    return torch.randint(1, VOCAB, (rows, length), generator=torch.Generator().manual_seed(5))


def output(model, token_ids):
    """The first of what the model returns: logits, or XLNet's and BERT's for each token."""
    found = model(token_ids)
    return found[0] if isinstance(found, tuple) else found


@every_model
@pytest.mark.parametrize("wrong", [-1, VOCAB, 10**6])
def test_ids_outside_the_vocabulary_are_named_with_their_range(name, wrong):
    token_ids = ids()
    token_ids[1, 4] = wrong
    low, high = min(wrong, int(token_ids.min())), max(wrong, int(token_ids.max()))
    with pytest.raises(ValueError, match=rf"from {low} to {high}, .*ids 0\.\.{VOCAB - 1}"):
        built(name)(token_ids)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.bool, torch.int32])
def test_ids_of_another_kind_are_refused(name, dtype):
    with pytest.raises(ValueError, match=rf"has {dtype} and shape \(3, 7\), must be torch.int64"):
        built(name)(ids().to(dtype))


@every_model
@pytest.mark.parametrize("shape", [(0, LENGTH), (3, 0)])
def test_nothing_is_refused(name, shape):
    with pytest.raises(ValueError, match=re.escape(str(shape))):
        built(name)(torch.zeros(shape, dtype=torch.long))


@every_model
def test_a_row_without_a_batch_is_refused(name):
    with pytest.raises(ValueError, match=r"\(7,\), must be torch.int64 and \(batch, length\)"):
        built(name)(ids()[0])


@pytest.mark.parametrize("name", PADDED)
def test_padding_on_the_right_changes_nothing(name):
    model, token_ids = built(name), ids()
    padded = torch.cat([token_ids, torch.zeros(3, 2, dtype=torch.long)], dim=1)
    found = output(model, padded)[:, :LENGTH]
    torch.testing.assert_close(found, output(model, token_ids), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", PADDED)
@pytest.mark.parametrize("place", [0, 3])
def test_padding_on_the_left_or_between_tokens_is_refused(name, place):
    token_ids = ids()
    token_ids[2, place] = 0
    with pytest.raises(ValueError, match=r"row 2 is \[.*pad_id=0 may stand only behind"):
        built(name)(token_ids)


@every_model
def test_a_batch_is_its_rows_one_by_one(name):
    model, token_ids = built(name), ids()
    together = output(model, token_ids)
    for row, expected in zip(token_ids, together, strict=True):
        torch.testing.assert_close(output(model, row[None])[0], expected, rtol=1e-5, atol=1e-6)


@every_model
def test_copies_and_saved_weights_give_the_same(name):
    model, token_ids = built(name), ids()
    expected = output(model, token_ids)
    assert torch.equal(output(copy.deepcopy(model), token_ids), expected)
    torch.manual_seed(99)
    other = MODELS[name]().eval()
    assert not torch.equal(output(other, token_ids), expected)
    other.load_state_dict(model.state_dict())
    assert torch.equal(output(other, token_ids), expected)


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name not in ("sparse transformer", "dall-e")]
)
def test_a_pickled_model_is_the_same(name):
    """The two that are left out hold attention functions made inside a function."""
    model, token_ids = built(name), ids()
    again = pickle.loads(pickle.dumps(model))
    assert torch.equal(output(again, token_ids), output(model, token_ids))


@every_model
def test_half_precision_is_near(name):
    model, token_ids = built(name), ids()
    expected = output(model, token_ids)
    found = output(model.to(torch.bfloat16), token_ids)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, rtol=0.1, atol=0.1)


@every_model
def test_a_compiled_model_gives_the_same_in_one_graph(name):
    model, token_ids = built(name), ids()
    expected = output(model, token_ids)
    torch.compiler.reset()
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(output(compiled, token_ids), expected)


@every_model
def test_an_exported_model_gives_the_same(name):
    model, token_ids = built(name), ids()
    expected = output(model, token_ids)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.export.export(model, (token_ids,)).module()
    torch.testing.assert_close(output(exported, token_ids), expected)


@every_model
def test_weights_of_a_wrapped_model_are_the_models_own(name):
    model = built(name)
    names = list(weights_of(model))
    torch.compiler.reset()
    compiled = torch.compile(model, backend="eager")
    parallel = nn.ModuleDict({"module": model})  # the name that DistributedDataParallel gives
    assert list(weights_of(compiled)) == names
    assert list(weights_of(parallel)) == names
    with torch.no_grad():
        other = MODELS[name]()
        load_weights(torch.compile(other, backend="eager"), weights_of(compiled))
    token_ids = ids()
    assert torch.equal(output(other.eval(), token_ids), output(model, token_ids))


@pytest.mark.parametrize("name", ["transformer", "rnn"])
def test_the_side_with_the_wrong_pad_is_named(name):
    model, token_ids = built(name).model, ids()
    padded = token_ids.clone()
    padded[2, 3] = 0
    with pytest.raises(ValueError, match=r"^src_ids row 2 is"):
        model(padded, token_ids)


def test_the_side_with_wrong_ids_is_named():
    model, token_ids = built("rnn").model, ids()
    empty = token_ids.clone()
    empty[1] = 0
    with pytest.raises(ValueError, match=r"^src_ids row 1 must hold a token"):
        model(empty, token_ids)
    with pytest.raises(ValueError, match=r"^src_ids reach"):
        model(token_ids + VOCAB, token_ids)
    with pytest.raises(ValueError, match=r"^tgt_ids reach"):
        model(token_ids, token_ids + VOCAB)


@pytest.mark.parametrize("step", [RecomputedContinuation, CachedContinuation])
@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (torch.zeros(2, 0, dtype=torch.long), r"prompt_ids has torch.int64 and shape \(2, 0\)"),
        (torch.ones(2, 12, dtype=torch.long), "prompt_ids hold 12 tokens, .* at most max_len=11"),
        (torch.full((2, 3), 17), "prompt_ids reach from 17 to 17"),
    ],
)
def test_a_prompt_that_cannot_be_continued_is_refused_before_anything_is_computed(
    step, prompt, message
):
    with pytest.raises(ValueError, match=message):
        step(built("gpt"), prompt)


def test_a_transformer_may_draw_a_pad_in_its_own_text():
    model, token_ids = built("transformer").model, ids()
    drawn = token_ids.clone()
    drawn[1, 3] = 0
    logits = model.decode(drawn, *model.encode(token_ids))
    assert logits.isfinite().all()
    with pytest.raises(ValueError, match="tgt_ids row 1 is"):
        model(token_ids, drawn)
