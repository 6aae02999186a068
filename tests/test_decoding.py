import itertools
import math

import pytest
import torch

from tfm_lib.decoding import EnsembleStep, beam_search, greedy, keep_top_k, keep_top_p, sample

PAD, BOS, EOS = 0, 1, 2
VOCAB = 5
MAX_LEN = 4
IDS = {"bos_id": BOS, "eos_id": EOS, "pad_id": PAD}


class TableStep:
    """A step that looks its logits up by source and prefix, and checks the state it was handed.

    tables: (sources, prefixes, vocab), random logits after every possible prefix, so that
    nothing but the right prefix of the right source gives the right ones.
    """

    def __init__(self, tables):
        self.tables = tables
        self.source = torch.arange(len(tables))  # (rows,)
        self.seen = torch.empty(len(tables), 0, dtype=torch.long)  # (rows, length)
        self.calls = 0

    def __call__(self, token_ids):
        assert not torch.is_grad_enabled()
        assert torch.equal(token_ids[:, :-1], self.seen), "the state belongs to another prefix"
        self.seen = token_ids
        self.calls += 1
        return self.tables[self.source, prefix_number(token_ids)]

    def reorder(self, rows):
        self.source, self.seen = self.source[rows], self.seen[rows]


def prefix_number(token_ids):
    """Number every prefix of 0..MAX_LEN - 1 tokens after bos: (rows, 1 + length) -> (rows,)."""
    assert (token_ids[:, 0] == BOS).all()
    number = torch.zeros(len(token_ids), dtype=torch.long)
    for column in token_ids[:, 1:].T:
        number = number * VOCAB + column + 1
    return number


def make_tables(seed, sources=3, eos_bias=0.0):
    generator = torch.Generator().manual_seed(seed)
    prefixes = sum(VOCAB**length for length in range(MAX_LEN))
    tables = 2 * torch.randn(sources, prefixes, VOCAB, generator=generator)
    tables[..., EOS] += eos_bias
    return tables


def scorer(table, alpha):
    """Return tokens -> log probability / length penalty, in plain Python."""
    log_probs = table.double().log_softmax(-1).tolist()

    def score(tokens):
        number, total = 0, 0.0
        for token in tokens:
            total += log_probs[number][token]
            number = number * VOCAB + token + 1
        return total / ((5 + len(tokens)) / 6) ** alpha

    return score


def every_hypothesis():
    others = [token for token in range(VOCAB) if token != EOS]
    for length in range(1, MAX_LEN + 1):
        for body in itertools.product(others, repeat=length - 1):
            yield (*body, EOS)
    yield from itertools.product(others, repeat=MAX_LEN)


def slow_beam_search(table, beam_size, alpha):
    """Beam search with lists, one source, and no early stop."""
    likelihood, score = scorer(table, 0), scorer(table, alpha)
    beam, ended = [()], []
    for length in range(1, MAX_LEN + 1):
        grown = [(*tokens, token) for tokens in beam for token in range(VOCAB)]
        grown = sorted(grown, key=likelihood)[-beam_size:]
        ended += [tokens for tokens in grown if tokens[-1] == EOS or length == MAX_LEN]
        beam = [tokens for tokens in grown if tokens[-1] != EOS]
    return max(ended, key=score)


def padded(tokens, length):
    return [*tokens, *[PAD] * (length - len(tokens))]


def run_greedy(tables):
    return greedy(TableStep(tables), batch_size=len(tables), max_len=MAX_LEN, **IDS)


def run_beam(tables, beam_size, alpha=0.6):
    return beam_search(
        TableStep(tables),
        batch_size=len(tables),
        beam_size=beam_size,
        max_len=MAX_LEN,
        length_penalty=alpha,
        **IDS,
    )


def run_sample(tables, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return sample(
        TableStep(tables),
        batch_size=len(tables),
        max_len=MAX_LEN,
        generator=generator,
        **IDS,
        **options,
    )


# Greedy


@pytest.mark.parametrize("seed", range(5))
def test_greedy_takes_the_likeliest_token_until_eos(seed):
    tables = make_tables(seed, sources=11)
    expected = []
    for table in tables:
        tokens = []
        while len(tokens) < MAX_LEN and EOS not in tokens:
            tokens.append(int(table[prefix_number(torch.tensor([[BOS, *tokens]]))[0]].argmax()))
        expected.append(tokens)
    longest = max(map(len, expected))
    assert run_greedy(tables).tolist() == [padded(tokens, longest) for tokens in expected]


def test_greedy_stops_when_all_rows_have_ended_and_pads_the_others():
    scripts = torch.tensor([[3, 2, 4, 4, 4], [4, 4, 3, 2, 3], [2, 4, 4, 4, 4]])

    def step(token_ids):
        return torch.eye(VOCAB)[scripts[:, token_ids.size(1) - 1]]

    def run(max_len):
        return greedy(step, batch_size=3, max_len=max_len, **IDS).tolist()

    assert run(5) == [[3, 2, 0, 0], [4, 4, 3, 2], [2, 0, 0, 0]]
    assert run(2) == [[3, 2], [4, 4], [2, 0]]
    assert run(1) == [[3], [4], [2]]


def test_eos_outside_the_vocabulary_never_ends_a_row():
    ids = IDS | {"eos_id": -1}
    logits = torch.eye(VOCAB)[[EOS, PAD]]
    token_ids = greedy(lambda token_ids: logits, batch_size=2, max_len=3, **ids)
    assert token_ids.tolist() == [[EOS] * 3, [PAD] * 3]


def test_pad_may_be_eos():
    tables = make_tables(3, sources=7)
    ids = {"batch_size": 7, "max_len": MAX_LEN, "bos_id": BOS, "eos_id": EOS, "pad_id": EOS}
    expected = run_greedy(tables)
    ended = (expected == EOS).cumsum(1) > 0
    expected = expected.masked_fill(ended, EOS)
    assert ended.any()
    assert torch.equal(greedy(TableStep(tables), **ids), expected)
    assert torch.equal(beam_search(TableStep(tables), beam_size=1, **ids)[0], expected)


# Beam search


@pytest.mark.parametrize("alpha", [0, 0.6, 1, 2])
@pytest.mark.parametrize("seed", range(4))
def test_wide_beam_finds_the_best_of_all_hypotheses(seed, alpha):
    tables = make_tables(seed)
    token_ids, scores = run_beam(tables, VOCAB**MAX_LEN, alpha)
    for table, row, score in zip(tables, token_ids.tolist(), scores.tolist(), strict=True):
        best = max(every_hypothesis(), key=scorer(table, alpha))
        assert row == padded(best, token_ids.size(1))
        assert score == pytest.approx(scorer(table, alpha)(best), abs=1e-5)


def test_penalty_decides_between_short_and_long():
    tables = torch.cat([make_tables(seed) for seed in range(10)])
    lengths = [
        (run_beam(tables, 50, alpha)[0] != PAD).sum().item() for alpha in (0.0, 1.0, 3.0, 10.0)
    ]
    assert lengths == sorted(lengths)
    assert lengths[0] < lengths[-1]


@pytest.mark.parametrize("alpha", [0, 0.6, 1])
@pytest.mark.parametrize("beam_size", [1, 2, 3, 7])
def test_beam_search_equals_a_slow_one_without_early_stop(beam_size, alpha):
    tables = torch.cat([make_tables(seed, 7, eos_bias=seed / 2 - 2) for seed in range(8)])
    token_ids, scores = run_beam(tables, beam_size, alpha)
    expected = [slow_beam_search(table, beam_size, alpha) for table in tables]
    assert token_ids.tolist() == [padded(tokens, token_ids.size(1)) for tokens in expected]
    assert token_ids.size(1) == max(map(len, expected))
    slow = [scorer(table, alpha)(t) for table, t in zip(tables, expected, strict=True)]
    assert scores.tolist() == pytest.approx(slow, abs=1e-5)


@pytest.mark.parametrize("seed", range(5))
def test_beam_of_one_is_greedy(seed):
    tables = make_tables(seed, sources=13)
    for alpha in (0, 0.6, 1):
        assert torch.equal(run_beam(tables, 1, alpha)[0], run_greedy(tables))


@pytest.mark.parametrize("beam_size", [2, 3, 11])
def test_batched_equals_one_by_one(beam_size):
    tables = make_tables(0, sources=13)
    token_ids, scores = run_beam(tables, beam_size)
    for row, table in enumerate(tables):
        alone, score = run_beam(table[None], beam_size)
        assert token_ids[row].tolist() == padded(alone[0].tolist(), token_ids.size(1))
        torch.testing.assert_close(scores[row], score[0])


def test_step_without_reorder_gets_the_same_prefixes():
    table = make_tables(1, sources=1)
    token_ids, scores = beam_search(
        lambda token_ids: table[0, prefix_number(token_ids)],
        batch_size=1,
        beam_size=3,
        max_len=MAX_LEN,
        **IDS,
    )
    expected, expected_scores = run_beam(table, 3)
    assert torch.equal(token_ids, expected)
    assert torch.equal(scores, expected_scores)


def test_beam_search_stops_once_nothing_open_can_win():
    step = TableStep(make_tables(0, eos_bias=30.0))
    token_ids, _ = beam_search(step, batch_size=3, beam_size=3, max_len=MAX_LEN, **IDS)
    assert step.calls == 1
    assert token_ids.tolist() == [[EOS]] * 3


def test_each_row_has_a_bound_of_its_own():
    """Both have ended above what is open in their own row, 0.5 over 0.4 and 0.3 over 0.25."""
    tables = torch.full((2, make_tables(0).size(1), VOCAB), 1 / VOCAB)
    tables[0, 0] = torch.tensor([0.03, 0.03, 0.5, 0.4, 0.04])
    tables[1, 0] = torch.tensor([0.15, 0.15, 0.3, 0.25, 0.15])
    step = TableStep(tables.log())
    options = {"batch_size": 2, "beam_size": 2, "max_len": MAX_LEN, **IDS}
    token_ids, _ = beam_search(step, length_penalty=0.0, **options)
    assert token_ids.tolist() == [[EOS]] * 2
    assert step.calls == 1  # though what is open in row 0 would beat row 1


def test_a_bound_that_ignores_the_penalty_would_stop_too_soon():
    """(eos) scores log 0.4 = -0.92; (3, 3, 3, 3) has log 0.3 = -1.20, but scores -0.80."""
    tables = torch.eye(VOCAB)[3].repeat(1, make_tables(0).size(1), 1)
    tables[0, 0] = torch.tensor([0.1, 0.1, 0.4, 0.3, 0.1])
    token_ids, scores = run_beam(tables.log(), 2, 1.0)
    assert token_ids.tolist() == [[3, 3, 3, 3]]
    assert scores.item() == pytest.approx(math.log(0.3) / (9 / 6))
    assert run_beam(tables.log(), 2, 0.0)[0].tolist() == [[EOS]]


def test_the_best_stays_the_best_though_worse_ones_end_later():
    tables = torch.full((1, make_tables(0).size(1), VOCAB), 1 / VOCAB)
    tables[0, 0] = torch.tensor([0.1, 0.1, 0.2, 0.5, 0.1])
    token_ids, scores = run_beam(tables.log(), 2, 1.0)
    assert token_ids.tolist() == [[EOS]]
    assert scores.item() == pytest.approx(math.log(0.2))


# Sampling


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_samples_follow_the_softmax_at_the_temperature(temperature):
    draws = 20_000
    table = make_tables(0, sources=1)[0] / 2
    probs = (table / temperature).softmax(-1)  # (prefixes, vocab)
    token_ids = sample(
        lambda token_ids: table[prefix_number(token_ids)],
        batch_size=draws,
        max_len=2,
        temperature=temperature,
        generator=torch.Generator().manual_seed(0),
        **IDS,
    )
    joint = probs[0, :, None] * probs[1 : VOCAB + 1]  # (first, second)
    joint[EOS] = probs[0, EOS] * torch.eye(VOCAB)[PAD]  # after eos comes pad, surely
    counts = torch.bincount(token_ids[:, 0] * VOCAB + token_ids[:, 1], minlength=VOCAB**2)
    deviation = (draws * joint * (1 - joint)).sqrt().flatten()
    assert ((counts - draws * joint.flatten()).abs() <= 5 * deviation).all()


@pytest.mark.parametrize(
    "options", [{"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-37}, {"top_k": 1, "top_p": 0.3}]
)
def test_sampling_without_choice_is_greedy(options):
    tables = 1000 * make_tables(0, sources=13)
    assert torch.equal(run_sample(tables, **options), run_greedy(tables))


@pytest.mark.parametrize("options", [{}, {"top_k": VOCAB}, {"top_k": 99}, {"top_p": 1.0}])
def test_keeping_everything_changes_nothing(options):
    tables = make_tables(0, sources=13)
    assert torch.equal(run_sample(tables, seed=7, **options), run_sample(tables, seed=7))


def test_generator_reproduces_and_leaves_the_global_one_alone():
    tables = make_tables(0, sources=13)
    before = torch.get_rng_state()
    assert torch.equal(run_sample(tables, seed=3), run_sample(tables, seed=3))
    assert run_sample(tables, seed=3).tolist() != run_sample(tables, seed=4).tolist()
    assert torch.equal(torch.get_rng_state(), before)


def test_top_k_keeps_k_even_among_ties():
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    kept = keep_top_k(logits, 2)
    assert kept.isfinite().sum(1).tolist() == [2, 2]
    assert kept[0].topk(2).values.tolist() == [3.0, 3.0]
    assert logits.isfinite().all(), "the argument changed"


@pytest.mark.parametrize("top_p", [0.001, 0.3, 0.5, 0.9, 0.999])
def test_top_p_keeps_the_smallest_set_that_suffices(top_p):
    logits = 2 * torch.randn(31, 7, generator=torch.Generator().manual_seed(0))
    for row, probs in zip(keep_top_p(logits, top_p), logits.softmax(-1).tolist(), strict=True):
        sizes = (
            size
            for size in range(1, 8)
            if any(sum(subset) >= top_p for subset in itertools.combinations(probs, size))
        )
        kept = [prob for prob, logit in zip(probs, row, strict=True) if logit > -math.inf]
        assert len(kept) == next(sizes)
        assert sum(kept) >= top_p


def test_top_p_at_exact_boundaries():
    logits = torch.tensor([[0.125, 0.5, 0.125, 0.25]]).log()
    sizes = [keep_top_p(logits, p).isfinite().sum().item() for p in (0.5, 0.51, 0.75, 0.875, 1.0)]
    assert sizes == [1, 2, 2, 3, 4]


def test_top_p_shares_out_what_top_k_left():
    logits = torch.tensor([[0.4, 0.3, 0.2, 0.1]]).log()  # two tokens left: 4/7 and 3/7
    token_ids = sample(
        lambda token_ids: logits.expand(len(token_ids), -1),
        batch_size=500,
        max_len=1,
        top_k=2,
        top_p=0.55,
        generator=torch.Generator().manual_seed(0),
        **IDS,
    )
    assert token_ids.unique().tolist() == [0]


# Errors


SIZES = {"batch_size": 1, "max_len": 3}
DECODERS = [greedy, sample, lambda step, **rest: beam_search(step, beam_size=2, **rest)]


@pytest.mark.parametrize("decode", DECODERS, ids=["greedy", "sample", "beam"])
@pytest.mark.parametrize("size", ["batch_size", "max_len"])
def test_sizes_must_be_positive(decode, size):
    with pytest.raises(ValueError, match=f"{size}=0 must be positive"):
        decode(TableStep(make_tables(0)), **SIZES | {size: 0}, **IDS)


@pytest.mark.parametrize("decode", DECODERS, ids=["greedy", "sample", "beam"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_bad_logits_are_named(decode, bad):
    def step(token_ids):
        logits = torch.eye(VOCAB)[[3]].repeat(len(token_ids), 1)
        if token_ids.size(1) == 3:
            logits[-1, 4] = bad
        return logits

    with pytest.raises(ValueError, match=rf"logit is {bad} in row [01] at position 2"):
        decode(step, **SIZES, **IDS | {"eos_id": -1})


@pytest.mark.parametrize("decode", DECODERS, ids=["greedy", "sample", "beam"])
def test_forbidden_tokens(decode):
    logits = torch.full((1, VOCAB), -math.inf)
    with pytest.raises(ValueError, match=r"logit is -inf in row 0 at position 0"):
        decode(lambda token_ids: logits.expand(len(token_ids), -1), **SIZES, **IDS)
    logits[0, 3] = -7.0
    found = decode(lambda token_ids: logits.expand(len(token_ids), -1), **SIZES, **IDS)
    token_ids = found[0] if isinstance(found, tuple) else found
    assert token_ids.tolist() == [[3, 3, 3]]


@pytest.mark.parametrize("shape", [(1,), (1, 1, VOCAB), (2, VOCAB)])
def test_logits_of_another_shape(shape):
    with pytest.raises(ValueError, match=r"must be \(1, vocab\)"):
        greedy(lambda token_ids: torch.zeros(shape), **SIZES, **IDS)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"temperature": -1.0}, "temperature=-1.0 must be above 0"),
        ({"temperature": math.inf}, "temperature=inf must be"),
        ({"temperature": math.nan}, "temperature=nan must be"),
        ({"top_k": 0}, "top_k=0 must be positive"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5 must be above 0 and at most 1"),
    ],
)
def test_sampling_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=message):
        run_sample(make_tables(0), **options)


@pytest.mark.parametrize("alpha", [-0.1, math.inf, math.nan])
def test_length_penalty_out_of_range(alpha):
    with pytest.raises(ValueError, match=f"length_penalty={alpha} must be at least 0"):
        run_beam(make_tables(0), 2, alpha)


def test_beam_size_must_be_positive():
    with pytest.raises(ValueError, match="beam_size=0 must be positive"):
        run_beam(make_tables(0), 0)


# --- several models


@pytest.mark.parametrize("search", ["greedy", "beam"])
def test_an_ensemble_decodes_as_one_model_with_the_mean_probabilities(search):
    tables = [make_tables(seed) for seed in (0, 1, 2)]
    mean = torch.stack([table.softmax(-1) for table in tables]).mean(0).log()
    found = []
    for step in (EnsembleStep([TableStep(table) for table in tables]), TableStep(mean)):
        options = {"batch_size": len(mean), "max_len": MAX_LEN, **IDS}
        if search == "greedy":
            found.append((greedy(step, **options), torch.zeros(1)))
        else:
            found.append(beam_search(step, beam_size=3, **options))
    (ids, scores), (expected_ids, expected) = found
    assert torch.equal(ids, expected_ids)
    torch.testing.assert_close(scores, expected)


def test_an_ensembles_probabilities_add_up_to_one():
    steps = [lambda ids, shift=shift: torch.eye(5)[: len(ids)] + shift for shift in (0.0, 3.0)]
    log_probs = EnsembleStep(steps)(torch.ones(4, 1).long())
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(4))


def test_an_ensemble_refuses_what_it_cannot_average():
    with pytest.raises(ValueError, match="at least one step"):
        EnsembleStep([])
    steps = [lambda ids: torch.zeros(len(ids), 5), lambda ids: torch.zeros(len(ids), 6)]
    with pytest.raises(ValueError, match=r"vocabularies of \[5, 6\] tokens"):
        EnsembleStep(steps)(torch.ones(1, 1).long())
