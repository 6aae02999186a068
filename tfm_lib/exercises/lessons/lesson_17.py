"""Exercises of lesson 17: GPT."""

from dataclasses import replace

import torch
from torch import nn, tensor
from torch.nn import functional as F

from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts


def predictions_by_torch():
    """What the predictions come to."""
    ids = tensor([7, 3, 9, 4])
    even = F.cross_entropy(torch.zeros(1, 50), tensor([11]))
    return {
        "first label of 7 3 9 4": ids[1:][0].item(),
        "labels of a window of 8 ids": torch.arange(8)[1:].numel(),
        "position of the new token after 5 in the cache": torch.arange(6)[5:].item(),
        "perplexity of a model that knows nothing of 50 tokens": round(even.exp().item()),
        "share of the first token, logits 2 and 0, temperature 2": (tensor([2.0, 0.0]) / 2)
        .softmax(0)[0]
        .item(),
    }


def rounded(step):
    """A share may be rounded to two digits; all else is a whole number."""
    return replace(step, tolerance=0.005) if step.asks.startswith("share") else step


READ = Exercise(
    id="17.1",
    title="One step ahead",
    kind="predict",
    difficulty=1,
    minutes=6,
    task="""
        A language model reads ids and says at each place which comes next. Predict, without running
        anything. Positions count from 0. All are whole numbers, but for the share, which needs two
        digits.
        """,
    stub="""
        ahead = {
            "first label of 7 3 9 4": ...,
            "labels of a window of 8 ids": ...,
            "position of the new token after 5 in the cache": ...,
            "perplexity of a model that knows nothing of 50 tokens": ...,
            "share of the first token, logits 2 and 0, temperature 2": ...,
        }
        """,
    hints=(
        "What must be said after the first token was read? What after the last?",
        "perplexity = exp(mean loss), and the loss of an even guess among V tokens is log V; the "
        "temperature divides the logits before the softmax",
        "exp(log 50); softmax of 2 / 2 and 0 / 2: e / (e + 1)",
    ),
    solution="""
        ahead = {
            "first label of 7 3 9 4": 3,
            "labels of a window of 8 ids": 7,
            "position of the new token after 5 in the cache": 5,
            "perplexity of a model that knows nothing of 50 tokens": 50,
            "share of the first token, logits 2 and 0, temperature 2": 0.73,
        }
        """,
    explanation="""
        The first token is never a label and the last is never read. Five tokens stand at the
        positions 0 to 4, so the next one has position 5. Perplexity says among how many equally
        likely tokens a model seems to choose.
        """,
    steps=tuple(map(rounded, parts(predictions_by_torch))),
    wrong=(
        Wrong("the label is the next token, not the one that is read", '4": 3', '4": 7'),
        Wrong("that is the label of the second token", '4": 3', '4": 9'),
        Wrong("the last id has no next one in the window", 'ids": 7', 'ids": 8'),
        Wrong("positions count from 0", 'cache": 5', 'cache": 6'),
        Wrong("the new token does not start again at 0", 'cache": 5', 'cache": 0'),
        Wrong("that is the loss; perplexity is exp of it", 'tokens": 50', 'tokens": 3.91'),
        Wrong("that is the probability of each token", 'tokens": 50', 'tokens": 0.02'),
        Wrong("the temperature divides the logits first", "0.73", "0.88"),
        Wrong("that is the other token's share", "0.73", "0.27"),
        Wrong("a temperature of 2, not of 4", "0.73", "0.62"),
        Wrong("the temperature divides, it does not multiply", "0.73", "0.98"),
    ),
)


def answer_loss_by_loop(logits, token_ids, prompt_len):
    """One token after the other: the mean of minus log P."""
    losses = [
        -logits[row, at - 1].log_softmax(0)[token_ids[row, at]]
        for row in range(len(token_ids))
        for at in range(prompt_len, token_ids.size(1))
    ]
    return torch.stack(losses).mean()


def some_logits(batch, length, vocab):
    """Small whole numbers, all rows different."""
    count = torch.arange(batch * length * vocab, dtype=torch.float32)
    return (count * 7 % 5 - count % 3).reshape(batch, length, vocab)


def gradient_of(answer, logits, token_ids, prompt_len):
    """What training would send back into the logits; zeros if the loss hangs on nothing."""
    logits = logits.clone().requires_grad_()
    loss = answer(logits, token_ids, prompt_len)
    if not loss.requires_grad:
        return torch.zeros_like(logits)
    return torch.autograd.grad(loss, logits)[0]


def gradient_by_loop(*given):
    return gradient_of(answer_loss_by_loop, *given)


TWO_ROWS = {
    "logits": some_logits(2, 5, 4),
    "token_ids": tensor([[1, 0, 2, 3, 1], [3, 3, 0, 1, 2]]),
    "prompt_len": 2,
}
SMALL = {
    "logits": tensor([[[1.0, 2, 0], [-2000, 0, 2], [3, 1, 2]]]),
    "token_ids": tensor([[2, 1, 0]]),
    "prompt_len": 1,
}
LARGE = {**SMALL, "logits": tensor([[[1.0, 2, 0], [2000, 1998, -2000], [3, 1, 2]]])}
APART = {  # float64, not contiguous
    "logits": some_logits(4, 3, 5).double().transpose(0, 1),
    "token_ids": tensor([[1, 0, 2, 3], [3, 4, 0, 1], [2, 2, 4, 0]]),
    "prompt_len": 1,
}


ANSWER = Exercise(
    id="17.2",
    title="A loss for the answer alone",
    kind="write",
    difficulty=2,
    minutes=12,
    task="""
        Each row holds a prompt of `prompt_len` tokens, then an answer. The model reads all of it,
        and `logits[:, i]` says what it expects **after** token i. Return the mean cross-entropy of
        the answer's tokens, so that it can be trained. The prompt's tokens are read, not scored;
        the first token of the answer is scored.
        """,
    stub='''
        def answer_loss(logits, token_ids, prompt_len):
            """logits (batch, length, vocab), token_ids (batch, length) -> a scalar."""
            return ...
        ''',
    hints=(
        "Which place says what it expects for the first token of the answer?",
        "token t is scored by logits[:, t - 1], for t = prompt_len ... length - 1",
        "logits[:, prompt_len - 1 : -1] against token_ids[:, prompt_len:], both flattened",
    ),
    solution="""
        def answer_loss(logits, token_ids, prompt_len):
            said = logits[:, prompt_len - 1 : -1]
            wanted = token_ids[:, prompt_len:]
            return F.cross_entropy(said.flatten(0, 1), wanted.flatten())
        """,
    explanation="""
        A chat model is fine-tuned with this loss. The shift by one is the same as ever; at the
        border it means that the prompt's last place does count: it says the answer's first token.
        """,
    steps=(
        Step(
            "prompt of one token, answer of one: place 0 says it",
            {"logits": some_logits(1, 2, 3), "token_ids": tensor([[2, 1]]), "prompt_len": 1},
            answer_loss_by_loop,
        ),
        Step(
            "prompt of two, answer of one",
            {"logits": some_logits(1, 3, 4), "token_ids": tensor([[0, 3, 1]]), "prompt_len": 2},
            answer_loss_by_loop,
        ),
        Step(
            "prompt of two, answer of three, two rows",
            TWO_ROWS,
            answer_loss_by_loop,
        ),
        Step("a logit of -2000", SMALL, answer_loss_by_loop),
        Step("a logit of 2000", LARGE, answer_loss_by_loop),
        Step("in float64, three rows", APART, answer_loss_by_loop),
        Step("the gradient that reaches the logits", TWO_ROWS, gradient_by_loop, gradient_of),
    ),
    wrong=(
        Wrong(
            "no shift: each place is scored by the token it has read",
            "logits[:, prompt_len - 1 : -1]",
            "logits[:, prompt_len:]",
        ),
        Wrong(
            "the prompt is scored too",
            """
            def answer_loss(logits, token_ids, prompt_len):
                return F.cross_entropy(logits[:, :-1].flatten(0, 1), token_ids[:, 1:].flatten())
            """,
        ),
        Wrong("the model cannot learn from it: detached", "logits[:", "logits.detach()[:"),
        Wrong(
            "summed over the rows: take the mean over all tokens",
            "wanted.flatten())",
            "wanted.flatten()) * len(logits)",
        ),
        Wrong(
            "divided by all places, the prompt's too",
            "wanted.flatten())",
            "wanted.flatten()) * wanted.numel() / token_ids.numel()",
        ),
        Wrong(
            "token 0 is a token like all others: score it",
            "wanted.flatten())",
            "wanted.flatten(), ignore_index=0)",
        ),
        Wrong(
            "the log of a share that came out as 0: use log_softmax or cross_entropy",
            "F.cross_entropy(said.flatten(0, 1), wanted.flatten())",
            "-said.softmax(-1).log().gather(-1, wanted.unsqueeze(-1)).mean()",
        ),
        Wrong(
            "exp(2000) is infinite: use log_softmax or cross_entropy",
            "F.cross_entropy(said.flatten(0, 1), wanted.flatten())",
            "(said.exp().sum(-1).log() - said.gather(-1, wanted.unsqueeze(-1))[..., 0]).mean()",
        ),
        Wrong(
            "the sum over the tokens, not the mean",
            "wanted.flatten())",
            'wanted.flatten(), reduction="sum")',
        ),
        Wrong(
            "the answer's first token is left out",
            """
            def answer_loss(logits, token_ids, prompt_len):
                said, wanted = logits[:, prompt_len:-1], token_ids[:, prompt_len + 1 :]
                return F.cross_entropy(said.flatten(0, 1), wanted.flatten())
            """,
        ),
        Wrong(
            "the mean of the batch is right, but it is the probability's, not its log's",
            "F.cross_entropy(said.flatten(0, 1), wanted.flatten())",
            "-said.softmax(-1).gather(-1, wanted.unsqueeze(-1)).mean()",
        ),
    ),
)


class Reader(nn.Module):
    """Says (first + last id + how many) modulo 7, and reads at most 4 ids."""

    def forward(self, token_ids):
        length = token_ids.size(1)
        if length > 4:
            raise ValueError(f"{length} ids given, the model reads at most 4")
        last = (token_ids[:, :1] + token_ids + torch.arange(1, length + 1)) % 7
        return F.one_hot(last, 7).float()  # (batch, length, 7)


def write_by_loop(model, token_ids, count, context):
    """Number by number, without tensors."""
    rows = []
    for row in token_ids.tolist():
        for _ in range(count):
            seen = row[-context:]
            row = [*row, (seen[0] + seen[-1] + len(seen)) % 7]
        rows.append(row)
    return tensor(rows)


WRITE = Exercise(
    id="17.3",
    title="Broken GPT: it stops listening to itself",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        Greedy writing, each row for itself, with a model that reads at most `context` tokens.
        **Symptom:** all is well until the text is as long as the context; from then on it writes
        the same token for ever. **Tool:** print what goes into the model at each step. The whole
        text is returned, prompt included.
        """,
    stub='''
        def write_on(model, token_ids, count, context):
            """token_ids (batch, length) -> (batch, length + count). model(ids) gives logits
            (batch, length, vocab) for up to `context` ids.
            """
            for _ in range(count):
                logits = model(token_ids[:, :context])
                following = logits[:, -1].argmax(dim=-1, keepdim=True)
                token_ids = torch.cat([token_ids, following], dim=1)
            return token_ids
        ''',
    hints=(
        "Which tokens should the model read when the text is too long for it?",
        "the newest ones: the last `context` of them",
        "a slice that starts at -context",
    ),
    solution="""
        def write_on(model, token_ids, count, context):
            for _ in range(count):
                logits = model(token_ids[:, -context:])
                following = logits[:, -1].argmax(dim=-1, keepdim=True)
                token_ids = torch.cat([token_ids, following], dim=1)
            return token_ids
        """,
    explanation="""
        What does not fit is forgotten, the oldest first. The text that is returned must not be cut
        with it. With a cache the same thing needs care with the positions, which is one reason for
        the memory of lesson 20.
        """,
    steps=(
        Step(
            "one token, and the text still fits",
            {"model": Reader(), "token_ids": tensor([[1, 2]]), "count": 1, "context": 4},
            write_by_loop,
        ),
        Step(
            "up to the context",
            {"model": Reader(), "token_ids": tensor([[3, 5], [0, 6]]), "count": 2, "context": 4},
            write_by_loop,
        ),
        Step(
            "beyond the context",
            {"model": Reader(), "token_ids": tensor([[3, 5], [0, 6]]), "count": 9, "context": 4},
            write_by_loop,
        ),
        Step(
            "a prompt longer than the context",
            {"model": Reader(), "token_ids": tensor([[2, 6, 1, 4, 3]]), "count": 3, "context": 3},
            write_by_loop,
        ),
        Step(
            "a context of one token",
            {
                "model": Reader(),
                "token_ids": tensor([[2, 6], [1, 3], [5, 0]]),
                "count": 2,
                "context": 1,
            },
            write_by_loop,
        ),
        Step(
            "nothing to write",
            {
                "model": Reader(),
                "token_ids": tensor([[2, 6, 1], [1, 3, 0]]),
                "count": 0,
                "context": 2,
            },
            tensor([[2, 6, 1], [1, 3, 0]]),
        ),
    ),
    wrong=(
        Wrong(
            "still the oldest tokens are read", "token_ids[:, -context:]", "token_ids[:, :context]"
        ),
        Wrong("nothing is cut: too long for the model", "token_ids[:, -context:]", "token_ids"),
        Wrong(
            "the returned text is cut too",
            """
            def write_on(model, token_ids, count, context):
                for _ in range(count):
                    token_ids = token_ids[:, -context:]
                    following = model(token_ids)[:, -1].argmax(dim=-1, keepdim=True)
                    token_ids = torch.cat([token_ids, following], dim=1)
                return token_ids
            """,
        ),
        Wrong("only the newest token is read", "token_ids[:, -context:]", "token_ids[:, -1:]"),
        Wrong(
            "one token fewer than the model could read",
            "token_ids[:, -context:]",
            "token_ids[:, 1 - context :]",
        ),
        Wrong("the context is given: not always 4", "-context:", "-4:"),
        Wrong("as many as are to be written, not as can be read", "-context:", "-count:"),
        Wrong("the prompt is part of the text", "return token_ids", "return token_ids[:, -count:]"),
        Wrong(
            "one token for all rows: each row goes on by itself",
            "logits[:, -1].argmax(dim=-1, keepdim=True)",
            "logits[:, -1].argmax().expand(len(token_ids), 1)",
        ),
        Wrong(
            "nothing was to be written",
            "range(count)",
            "range(max(count, 1))",
        ),
        Wrong("the first place's logits, not the last's", "logits[:, -1]", "logits[:, 0]"),
    ),
)
