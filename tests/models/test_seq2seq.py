"""Encoder-decoder RNNs against loops and by gradient: padding, causality, attention, decoding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tfm_lib.attention.functions import (
    AdditiveScore,
    Attention,
    dot_score,
    hard_attention,
    scaled_dot_product_attention,
)
from tfm_lib.attention.multi_head import MultiHeadAttention
from tfm_lib.attention.recording import record_attention
from tfm_lib.decoding import beam_search, greedy
from tfm_lib.layers.recurrent import Bidirectional
from tfm_lib.models.seq2seq import (
    AttentionDecoder,
    Encoded,
    RecurrentDecoder,
    RecurrentEncoder,
    RecurrentStep,
    Seq2Seq,
)

PAD, BOS, EOS = 0, 1, 2
SRC_VOCAB, TGT_VOCAB, SRC_EMBED, TGT_EMBED, HIDDEN = 17, 19, 3, 5, 14
LENGTHS = (4, 7, 1)
SRC_LEN, TGT_LEN = 7, 11


def make_attention(name):
    return {
        "dot": lambda: Attention(dot_score),
        "additive": lambda: Attention(AdditiveScore(HIDDEN, HIDDEN, 13)),
        "scaled": lambda: scaled_dot_product_attention,
        "hard": lambda: hard_attention,
    }[name]()


ATTENTIONS = ["dot", "additive", "scaled", "hard"]
DECODERS = ["fixed", *ATTENTIONS]


def make_model(name):
    torch.manual_seed(0)
    if name == "fixed":
        decoder = RecurrentDecoder(TGT_VOCAB, TGT_EMBED, HIDDEN)
    else:
        decoder = AttentionDecoder(TGT_VOCAB, TGT_EMBED, HIDDEN, attention=make_attention(name))
    return Seq2Seq(RecurrentEncoder(SRC_VOCAB, SRC_EMBED, HIDDEN, pad_id=PAD), decoder).double()


@pytest.fixture
def src_ids():
    torch.manual_seed(1)
    ids = torch.randint(1, SRC_VOCAB, (len(LENGTHS), SRC_LEN))
    for row, length in enumerate(LENGTHS):
        ids[row, length:] = PAD
    return ids


@pytest.fixture
def tgt_ids():
    torch.manual_seed(2)
    return torch.randint(3, TGT_VOCAB, (len(LENGTHS), TGT_LEN))


def test_encoder_equals_torch_row_by_row(src_ids):
    torch.manual_seed(0)
    oracle = nn.GRU(SRC_EMBED, HIDDEN // 2, bidirectional=True, batch_first=True).double()
    encoder = RecurrentEncoder(SRC_VOCAB, SRC_EMBED, HIDDEN).double()
    encoder.rnn = Bidirectional.from_torch(oracle)
    memory, state, mask = encoder(src_ids)
    assert memory.shape == (3, SRC_LEN, HIDDEN)
    assert mask.shape == (3, 1, SRC_LEN)
    for row, length in enumerate(LENGTHS):
        outputs, final = oracle(encoder.embedding(src_ids[row : row + 1, :length]))
        torch.testing.assert_close(memory[row, :length], outputs[0])
        torch.testing.assert_close(state[row], final.flatten())
        assert (memory[row, length:] == 0).all()
        assert mask[row, 0].tolist() == [True] * length + [False] * (SRC_LEN - length)


@pytest.mark.parametrize("name", ["dot", "additive"])
def test_attention_decoder_equals_a_loop_forward_and_backward(name, src_ids, tgt_ids):
    model = make_model(name)
    decoder = model.decoder
    logits = model(src_ids, tgt_ids)
    encoded = model.encoder(src_ids)
    score = decoder.attention.score
    expected = torch.empty_like(logits)
    for row, length in enumerate(LENGTHS):
        h = encoded.state[row]
        for i in range(TGT_LEN):
            x = decoder.rnn.input_proj(decoder.embedding(tgt_ids[row, i]))
            (h,) = decoder.rnn.step(x, h)
            scores = []
            for j in range(length):
                key = encoded.memory[row, j]
                if name == "dot":
                    scores.append(sum(a * b for a, b in zip(h, key, strict=True)))
                else:
                    hidden = torch.tanh(score.q_proj.weight @ h + score.k_proj.weight @ key)
                    scores.append((score.v.weight[0] * hidden).sum())
            total = sum(s.exp() for s in scores)
            context = sum(s.exp() / total * encoded.memory[row, j] for j, s in enumerate(scores))
            combined = torch.tanh(decoder.combine.weight @ torch.cat([context, h]))
            expected[row, i] = decoder.generator.weight @ combined + decoder.generator.bias
    torch.testing.assert_close(logits, expected)
    parameters = list(model.parameters())
    gradients = torch.autograd.grad(logits.square().sum(), parameters)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), parameters))


@pytest.mark.parametrize("name", DECODERS)
def test_steps_equal_forward(name, src_ids, tgt_ids):
    model = make_model(name)
    expected = model(src_ids, tgt_ids)
    assert expected.shape == (3, TGT_LEN, TGT_VOCAB)
    step = RecurrentStep(model.eval(), src_ids)
    for length in range(1, TGT_LEN + 1):
        logits = step(tgt_ids[:, :length])
        torch.testing.assert_close(logits, expected[:, length - 1])
        assert not logits.requires_grad


@pytest.mark.parametrize("name", DECODERS)
def test_reorder_moves_whole_rows(name, src_ids, tgt_ids):
    model = make_model(name)
    step = RecurrentStep(model.eval(), src_ids)
    tgt_ids = tgt_ids.clone()
    for length in range(1, 4):
        step(tgt_ids[:, :length])
    rows = torch.tensor([2, 0, 0, 1, 2])  # shuffled and expanded
    step.reorder(rows)
    logits = step(tgt_ids[rows, :4])
    torch.testing.assert_close(logits, model(src_ids[rows], tgt_ids[rows])[:, 3])
    kept = torch.tensor([3, 1])  # dropped
    step.reorder(kept)
    logits = step(tgt_ids[rows[kept], :5])
    torch.testing.assert_close(logits, model(src_ids[rows[kept]], tgt_ids[rows[kept]])[:, 4])


@pytest.mark.parametrize("name", DECODERS)
def test_padding_changes_no_logit_no_loss_no_gradient(name, src_ids, tgt_ids):
    model = make_model(name)
    labels = tgt_ids.clone()
    labels[0, 6:] = PAD
    tgt_ids = tgt_ids.clone()
    tgt_ids[0, 6:] = PAD

    def run(src_ids, tgt_ids, labels):
        model.zero_grad()
        logits = model(src_ids, tgt_ids)
        loss = F.cross_entropy(logits.transpose(1, 2), labels, ignore_index=PAD)
        loss.backward()
        gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
        valid = logits[labels != PAD]
        return valid, loss, gradients

    expected = run(src_ids, tgt_ids, labels)
    assert expected[2]["encoder.embedding.weight"].abs().sum() > 0
    assert (expected[2]["encoder.embedding.weight"][PAD] == 0).all()

    more_src = F.pad(src_ids, (0, 5), value=PAD)
    more_tgt, more_labels = (F.pad(ids, (0, 2), value=PAD) for ids in (tgt_ids, labels))
    torch.testing.assert_close(run(more_src, more_tgt, more_labels), expected)

    with torch.no_grad():  # what a pad's vector holds
        model.encoder.embedding.weight[PAD] = 1e3
    torch.testing.assert_close(run(src_ids, tgt_ids, labels), expected)
    other_pads = torch.where(labels == PAD, 7, tgt_ids)  # what stands after a target's end
    torch.testing.assert_close(run(src_ids, other_pads, labels), expected)


@pytest.mark.parametrize("name", DECODERS)
def test_a_row_alone_equals_the_row_in_its_batch(name, src_ids, tgt_ids):
    model = make_model(name)
    together = model(src_ids, tgt_ids)
    for row, length in enumerate(LENGTHS):
        alone = model(src_ids[row : row + 1, :length], tgt_ids[row : row + 1])
        torch.testing.assert_close(together[row], alone[0])


@pytest.mark.parametrize("name", DECODERS)
def test_future_targets_do_not_reach_earlier_logits(name, src_ids, tgt_ids):
    model = make_model(name)
    embedded = []
    handle = model.decoder.embedding.register_forward_hook(
        lambda module, args, output: embedded.append(output.retain_grad() or output)
    )
    model(src_ids, tgt_ids)[:, 4].square().sum().backward()
    handle.remove()
    (vectors,) = embedded  # (batch, tgt_len, embed_size)
    assert (vectors.grad[:, :5].abs().sum(dim=-1) > 0).all()
    assert (vectors.grad[:, 5:] == 0).all()

    other_ids = tgt_ids.clone()
    other_ids[:, 5:] = 3 + (tgt_ids[:, 5:] - 2) % (TGT_VOCAB - 3)  # another token everywhere
    before, after = model(src_ids, tgt_ids), model(src_ids, other_ids)
    torch.testing.assert_close(after[:, :5], before[:, :5])
    assert (after[:, 5:] != before[:, 5:]).all()


def split(model, src_ids):
    """The encoder's result as leaves, so that a gradient tells which of them a decoder reads."""
    encoded = model.encoder(src_ids)
    memory = encoded.memory.detach().requires_grad_()
    return Encoded(memory, encoded.state.detach().requires_grad_(), encoded.mask)


def test_fixed_vector_decoder_sees_the_final_state_alone(src_ids, tgt_ids):
    model = make_model("fixed")
    encoded = split(model, src_ids)
    logits, _ = model.decoder(tgt_ids, model.decoder.start(encoded))
    by_memory, by_state = torch.autograd.grad(
        logits.square().sum(), [encoded.memory, encoded.state], allow_unused=True
    )
    assert by_memory is None
    assert (by_state.abs() > 0).all()
    torch.testing.assert_close(logits, model(src_ids, tgt_ids))


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_decoder_sees_every_token_and_no_pad(name, src_ids, tgt_ids):
    model = make_model(name)
    encoded = split(model, src_ids)
    logits, _ = model.decoder(tgt_ids, model.decoder.start(encoded))
    by_memory, by_state = torch.autograd.grad(
        logits.square().sum(), [encoded.memory, encoded.state]
    )
    reached = by_memory.abs().sum(dim=-1) > 0  # (batch, src_len)
    is_token = src_ids != PAD
    if name != "hard":  # which reads one position a query
        assert reached.equal(is_token)
    assert not (reached & ~is_token).any()
    assert reached.any(dim=1).all()
    assert (by_state.abs() > 0).all()


@pytest.mark.parametrize("name", ATTENTIONS)
def test_attention_weights_are_distributions_over_tokens(name, src_ids, tgt_ids):
    model = make_model(name)
    with record_attention(model) as maps:
        model(src_ids, tgt_ids)
    assert list(maps) == ["decoder.attention"]
    (weights,) = maps["decoder.attention"]  # one call for all queries
    assert weights.shape == (3, TGT_LEN, SRC_LEN)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, TGT_LEN, dtype=torch.float64))
    on_pads = weights.masked_select((src_ids == PAD)[:, None])
    assert len(on_pads) > 0
    assert (on_pads == 0).all()
    if name == "hard":
        assert ((weights == 0) | (weights == 1)).all()
    else:
        assert (weights.masked_select((src_ids != PAD)[:, None]) > 0).all()


def test_step_by_step_maps_equal_those_of_forward(src_ids, tgt_ids):
    model = make_model("additive")
    with record_attention(model) as at_once:
        model(src_ids, tgt_ids)
    with record_attention(model) as one_by_one:
        step = RecurrentStep(model.eval(), src_ids)
        for length in range(1, TGT_LEN + 1):
            step(tgt_ids[:, :length])
    joined = torch.cat(one_by_one["decoder.attention"], dim=1)
    torch.testing.assert_close(joined, at_once["decoder.attention"][0])


def test_any_function_or_module_plugs_in(src_ids, tgt_ids):
    seen = []

    def mean_attention(query, key, value, mask=None):
        seen.append((query.shape, key.shape, value.shape, mask.shape))
        weights = (mask / mask.sum(dim=-1, keepdim=True)).to(value.dtype)
        weights = weights.expand(-1, query.size(1), -1)  # (batch, tgt_len, src_len)
        return weights @ value, weights

    class Mean(nn.Module):
        def forward(self, *args):
            return mean_attention(*args)

    for attention in (mean_attention, Mean()):
        decoder = AttentionDecoder(TGT_VOCAB, TGT_EMBED, HIDDEN, attention=attention)
        model = Seq2Seq(RecurrentEncoder(SRC_VOCAB, SRC_EMBED, HIDDEN), decoder)
        with record_attention(model) as maps:
            model(src_ids, tgt_ids)
        expected = (1 / torch.tensor(LENGTHS))[:, None].expand(-1, TGT_LEN)
        torch.testing.assert_close(maps["decoder.attention"][0][..., 0], expected)
        shapes = seen.pop()
        assert shapes == ((3, 11, 14), (3, 7, 14), (3, 7, 14), (3, 1, 7))
    heads = MultiHeadAttention(HIDDEN, 2)
    decoder = AttentionDecoder(TGT_VOCAB, TGT_EMBED, HIDDEN, attention=heads)
    assert decoder.attention is heads


def test_learned_attention_gets_gradients(src_ids, tgt_ids):
    model = make_model("additive")
    model(src_ids, tgt_ids).square().sum().backward()
    assert all(parameter.grad.abs().sum() > 0 for parameter in model.parameters())


@pytest.mark.parametrize("name", ["fixed", "dot"])
def test_learns_to_reverse_digits(name):
    torch.manual_seed(0)
    digits = torch.cartesian_prod(*[torch.arange(3, 9)] * 3)  # all 216 strings of three of six
    digits = digits[torch.randperm(len(digits))]
    ends = torch.full((len(digits), 1), EOS)
    src_ids = torch.cat([digits, ends], dim=1)
    tgt_ids = torch.cat([torch.full_like(ends, BOS), digits.flip(1), ends], dim=1)
    if name == "fixed":
        decoder = RecurrentDecoder(9, 16, 64)
    else:
        decoder = AttentionDecoder(9, 16, 64, attention=Attention(dot_score))
    model = Seq2Seq(RecurrentEncoder(9, 16, 64), decoder)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    seen, unseen = slice(0, 180), slice(180, None)
    for _ in range(150):
        logits = model(src_ids[seen], tgt_ids[seen, :-1])
        loss = F.cross_entropy(logits.transpose(1, 2), tgt_ids[seen, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    expected = tgt_ids[unseen, 1:]  # (36, 4)
    ids = {"batch_size": 36, "bos_id": BOS, "eos_id": EOS, "pad_id": PAD, "max_len": 4}
    found = greedy(RecurrentStep(model.eval(), src_ids[unseen]), **ids)
    assert (found == expected).all(dim=1).float().mean() >= 0.9
    found, _ = beam_search(RecurrentStep(model.eval(), src_ids[unseen]), beam_size=3, **ids)
    assert (found == expected).all(dim=1).float().mean() >= 0.9


def test_refuses_token_ids_that_do_not_fit(src_ids, tgt_ids):
    model = make_model("dot")
    for value in (-1, SRC_VOCAB):
        wrong = src_ids.clone()
        wrong[0, 1] = value
        with pytest.raises(ValueError, match=rf"src_ids reach .*{value}.*0\.\.16"):
            model(wrong, tgt_ids)
    wrong = tgt_ids.clone()
    wrong[0, 1] = TGT_VOCAB
    with pytest.raises(ValueError, match=r"tgt_ids reach .*19.*0\.\.18"):
        model(src_ids, wrong)
    for wrong in (src_ids.float(), src_ids.int(), src_ids[0], src_ids[:0], src_ids[:, :0]):
        with pytest.raises(ValueError, match="src_ids has"):
            model(wrong, tgt_ids)
    for wrong in (tgt_ids.float(), tgt_ids.int(), tgt_ids[0], tgt_ids[:0], tgt_ids[:, :0]):
        with pytest.raises(ValueError, match="tgt_ids has"):
            model(src_ids, wrong)


def test_refuses_batches_that_do_not_fit(src_ids, tgt_ids):
    for name in ("fixed", "dot"):
        model = make_model(name)
        with pytest.raises(ValueError, match="3 sources, but 2 targets"):
            model(src_ids, tgt_ids[:2])
        step = RecurrentStep(model.eval(), src_ids)
        with pytest.raises(ValueError, match="3 sources, but 2 targets"):
            step(tgt_ids[:2, :1])


def test_refuses_misplaced_pads(src_ids, tgt_ids):
    model = make_model("dot")
    only_pads = src_ids.clone()
    only_pads[1] = PAD
    between = src_ids.clone()
    between[1, 2] = PAD
    before = src_ids.clone()
    before[1, 0] = PAD
    for wrong in (between, before):
        with pytest.raises(ValueError, match=r"src_ids row 1 is \[.*pad_id=0"):
            model(wrong, tgt_ids)
    with pytest.raises(ValueError, match="src_ids row 1 must hold a token, not pads alone"):
        model(only_pads, tgt_ids)


def test_refuses_a_prefix_of_another_length(src_ids, tgt_ids):
    step = RecurrentStep(make_model("dot").eval(), src_ids)
    with pytest.raises(ValueError, match="has read 0 tokens, so the prefix must have 1, got 2"):
        step(tgt_ids[:, :2])
    step(tgt_ids[:, :1])
    with pytest.raises(ValueError, match="has read 1 tokens, so the prefix must have 2, got 1"):
        step(tgt_ids[:, :1])


def test_a_step_refuses_training_mode(src_ids):
    with pytest.raises(ValueError, match=r"call model.eval\(\) first"):
        RecurrentStep(make_model("dot").train(), src_ids)


def test_refuses_sizes_that_do_not_fit():
    with pytest.raises(ValueError, match="hidden_size=7 must be even"):
        RecurrentEncoder(SRC_VOCAB, SRC_EMBED, 7)
    with pytest.raises(ValueError, match=r"hidden_size=14 must equal .*hidden_size=16"):
        Seq2Seq(
            RecurrentEncoder(SRC_VOCAB, SRC_EMBED, 14), RecurrentDecoder(TGT_VOCAB, TGT_EMBED, 16)
        )
