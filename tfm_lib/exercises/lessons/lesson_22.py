"""Exercises of lesson 22: DALL-E."""

import torch
from torch import nn, tensor
from torch.nn import functional as F

from tfm_lib.attention import column_mask, row_mask
from tfm_lib.exercises.declare import Exercise, Step, Wrong, parts, tensors


def stream_by_library():
    """What the predictions come to: the library's masks, PyTorch's layer."""
    place = 3 + torch.arange(4 * 5).view(4, 5)[2, 1].item()
    both = torch.cat([torch.arange(10), 10 + torch.arange(16)])  # text ids, then codes
    return {
        "length of the stream": 3 + torch.zeros(4, 5).numel(),
        "id of code 5": both[10:][5].item(),
        "place of row 2, column 1": place,
        "it sees, column pattern": int(column_mask(3, 4, 5)[place].sum()),
        "it sees, row pattern": int(row_mask(3, 4, 5)[place].sum()),
        "logits at each place": nn.Linear(2, len(both)).out_features,
    }


STREAM = Exercise(
    id="22.1",
    title="A picture in a line",
    kind="predict",
    difficulty=1,
    minutes=8,
    task="""
        Three text tokens of a vocabulary of 10, then a grid of 4 rows and 5 columns of codes from a
        codebook of 16, row by row. Places, rows, columns and codes count from 0. How many tokens
        does the code at row 2, column 1 see, itself and the text included? Column pattern: its
        column from itself upwards. Row pattern: itself and the 5 codes before it. All are whole
        numbers.
        """,
    stub="""
        picture_line = {
            "length of the stream": ...,
            "id of code 5": ...,
            "place of row 2, column 1": ...,
            "it sees, column pattern": ...,
            "it sees, row pattern": ...,
            "logits at each place": ...,
        }
        """,
    hints=(
        "Text comes first, and codes get the ids after the text's.",
        "place = text_len + row * columns + column; id = text_vocab_size + code",
        "3 + 2 * 5 + 1; column: 3 of the text, 3 rows; row: 3 of the text, 1 + 5",
    ),
    solution="""
        picture_line = {
            "length of the stream": 23,
            "id of code 5": 15,
            "place of row 2, column 1": 14,
            "it sees, column pattern": 6,
            "it sees, row pattern": 9,
            "logits at each place": 26,
        }
        """,
    explanation="""
        One vocabulary for both: the model has a logit for text and for codes at every place, and
        learns at once that no word stands in a picture.
        """,
    steps=parts(stream_by_library),
    wrong=(
        Wrong("3 of the text and 4 * 5 codes", "23", "20"),
        Wrong("codes come after the 10 text ids", 'code 5": 15', 'code 5": 5'),
        Wrong(
            "codes come after the text's vocabulary, not its length", 'code 5": 15', 'code 5": 8'
        ),
        Wrong("the text stands in front", "14", "11"),
        Wrong("a row is as long as there are columns", "14", "12"),
        Wrong("the text is always seen", 'column pattern": 6', 'column pattern": 3'),
        Wrong("rows below are not drawn yet", 'column pattern": 6', 'column pattern": 7'),
        Wrong("itself too", 'row pattern": 9', 'row pattern": 8'),
        Wrong("5 codes before, whatever their row", 'row pattern": 9', 'row pattern": 5'),
        Wrong("the first code has the id 10, not 11", 'code 5": 15', 'code 5": 16'),
        Wrong("of the picture its column alone, not the row", 'pattern": 6', 'pattern": 8'),
        Wrong("the text is always seen, here too", 'row pattern": 9', 'row pattern": 6'),
        Wrong("text and codes share the logits: 10 + 16", "26", "16"),
        Wrong("a logit for each id, not for each place", "26", "23"),
    ),
)


def chosen_by_torch(logits, noise, temperature):
    """The code with the highest noisy score, as ones and zeros."""
    return F.one_hot((logits + noise).argmax(dim=-1), logits.size(-1)).to(logits.dtype)


def pull_by_torch(logits, noise, temperature):
    """The gradient of 1, 2, 3, ... times the soft weights."""
    logits = logits.clone().requires_grad_()
    soft = F.softmax((logits + noise) / temperature, dim=-1)
    (soft * torch.arange(1.0, 1 + soft.size(-1))).sum().backward()
    return logits.grad


def pull_of(answer, logits, noise, temperature):
    """The same gradient through the answer; zeros where none arrives."""
    logits = logits.clone().requires_grad_()
    hard = answer(logits, noise, temperature)
    if not hard.requires_grad:
        return torch.zeros_like(logits)
    (hard * torch.arange(1.0, 1 + hard.size(-1))).sum().backward()
    return logits.grad


CODES = {
    **tensors(logits=[[2, 1, 0], [0, 1, 3]], noise=[[0, 2, 0], [1, 0, 0.5]]),
    "temperature": 2.0,
}

LARGE = {**tensors(logits=[[1000, 998], [-1000, -998]], noise=[[0, 1], [4, 1]]), "temperature": 2}
APART = {  # float64, not contiguous
    "logits": tensor([[2.0, 1, 0], [4, 1, 3]]).double().T,
    "noise": tensor([[0.0, 2, 0], [1, 0, 0.5]]).double().T,
    "temperature": 0.5,
}
TIES = {**tensors(logits=[[1, 3, 2], [0, 1, 0]], noise=[[0, 0, 1], [0, 0, 1]]), "temperature": 1.0}


HARD = Exercise(
    id="22.2",
    title="One code forward, all codes backward",
    kind="write",
    difficulty=3,
    minutes=20,
    task="""
        The Gumbel noise is drawn already. Going forward, return exactly one code for each row, as
        ones and zeros: the one with the highest logit plus noise, any one of them if two are equal.
        Rounding may move a value by 0.0001 at most. Going backward, the gradient must be that of
        the soft weights softmax((logits + noise) / temperature). This is the straight-through
        trick: let the value be hard, and let the difference carry no gradient.
        """,
    stub='''
        def one_code(logits, noise, temperature):
            """logits, noise (places, codes) -> (places, codes) of ones and zeros."""
            return ...
        ''',
    hints=(
        "You need both: the soft weights for their gradient, ones and zeros for the value.",
        "hard + (soft - soft.detach()): what is its value, and what is its gradient?",
        "hard = F.one_hot(soft.argmax(-1), codes).to(soft.dtype)",
    ),
    solution="""
        def one_code(logits, noise, temperature):
            soft = ((logits + noise) / temperature).softmax(dim=-1)
            hard = F.one_hot(soft.argmax(dim=-1), soft.size(-1)).to(soft.dtype)
            return hard + (soft - soft.detach())
        """,
    explanation="""
        soft - soft.detach() is 0 and has soft's gradient. The decoder then sees in training what it
        sees later, one code a place, and the encoder still learns. The price is a gradient that
        belongs to another function than the one computed.
        """,
    steps=(
        Step(
            "no noise: the largest logit",
            {**tensors(logits=[[0, 3, 1, 2]], noise=[[0, 0, 0, 0]]), "temperature": 1.0},
            chosen_by_torch,
        ),
        Step("the noise decides", CODES, chosen_by_torch),
        Step(
            "a high temperature: no code has half of the weight",
            {**CODES, "temperature": 20.0},
            chosen_by_torch,
        ),
        Step(
            "two equal scores: one code for each row",
            TIES,
            tensor([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0]]),
            lambda answer, *given: answer(*given).sort(dim=-1).values,
        ),
        Step("logits of 1000 and -1000", LARGE, chosen_by_torch),
        Step("the gradient is that of the soft weights", CODES, pull_by_torch, pull_of),
        Step("in float64, three places of two codes", APART, chosen_by_torch),
        Step("its gradient", APART, pull_by_torch, pull_of),
    ),
    wrong=(
        Wrong(
            "the soft weights themselves: every code a little",
            "hard + (soft - soft.detach())",
            "soft",
        ),
        Wrong("ones and zeros without a gradient", "hard + (soft - soft.detach())", "hard"),
        Wrong(
            "what is detached must be taken off, not the other way round",
            "(soft - soft.detach())",
            "(soft.detach() - soft)",
        ),
        Wrong("added twice: the value is no longer one and zero", "(soft - soft.detach())", "soft"),
        Wrong("the noise was left out", "(logits + noise)", "logits"),
        Wrong(
            "two equal scores gave two ones: take one of them",
            "F.one_hot(soft.argmax(dim=-1), soft.size(-1)).to(soft.dtype)",
            "(soft == soft.max(dim=-1, keepdim=True).values).to(soft.dtype)",
        ),
        Wrong(
            "rounded: where no code has half of the weight, none was chosen",
            "F.one_hot(soft.argmax(dim=-1), soft.size(-1)).to(soft.dtype)",
            "soft.round()",
        ),
        Wrong(
            "exp(1000) is infinite: use softmax",
            "((logits + noise) / temperature).softmax(dim=-1)",
            "F.normalize(((logits + noise) / temperature).exp(), p=1, dim=-1)",
        ),
        Wrong(
            "only the chosen code gets a gradient: all must",
            "(soft - soft.detach())",
            "(soft - soft.detach()) * hard",
        ),
        Wrong(
            "the gradient goes around the softmax, straight to the logits",
            "(soft - soft.detach())",
            "(logits - logits.detach())",
        ),
        Wrong(
            "the gradient's soft weights know nothing of the noise",
            "(soft - soft.detach())",
            "(u := (logits / temperature).softmax(-1)) - u.detach()",
        ),
        Wrong(
            "the gradient's soft weights know nothing of the temperature",
            "(soft - soft.detach())",
            "(u := (logits + noise).softmax(-1)) - u.detach()",
        ),
        Wrong("the temperature divides", "noise) / temperature", "noise) * temperature"),
        Wrong(
            "the softmax over the places, not over the codes", "softmax(dim=-1)", "softmax(dim=0)"
        ),
    ),
)


def stream_by_loop(text_ids, codes, text_vocab_size):
    """Number by number, row by row of the grid."""
    streams = []
    for ids, grid in zip(text_ids.tolist(), codes.tolist(), strict=True):
        streams.append([*ids, *(text_vocab_size + code for row in grid for code in row)])
    return tensor(streams)


def caption(ids, grid, text_vocab_size):
    return {
        "text_ids": tensor(ids),
        "codes": tensor(grid),
        "text_vocab_size": text_vocab_size,
    }


JOIN = Exercise(
    id="22.3",
    title="Broken DALL-E: words in the picture",
    kind="mend",
    difficulty=2,
    minutes=10,
    task="""
        Text and codes become one stream: first the text, then the grid row by row. Text ids take
        the numbers from 0 on, codes those behind the text's vocabulary. **Symptom:** what the model
        learns of a word changes what it draws; and sampled pictures are stretched in the wrong
        direction. **Tool:** give it ids 1, 2 and a grid that counts 0, 1, 2, 3, 4, 5 in two rows,
        and read the stream aloud.
        """,
    stub='''
        def one_stream(text_ids, codes, text_vocab_size):
            """text_ids (batch, text_len), codes (batch, rows, columns)
            -> (batch, text_len + rows * columns).
            """
            return torch.cat([text_ids, codes.transpose(1, 2).flatten(1)], dim=1)
        ''',
    hints=(
        "Two mistakes: one in the numbers, one in their order.",
        "id = text_vocab_size + code; flatten goes through the last dimension first",
        "(codes + text_vocab_size).flatten(1) behind the text",
    ),
    solution="""
        def one_stream(text_ids, codes, text_vocab_size):
            return torch.cat([text_ids, (codes + text_vocab_size).flatten(1)], dim=1)
        """,
    explanation="""
        Without the offset word 3 and code 3 are one row of the embedding. Nothing crashes: the
        shapes are right and the loss falls. A range of ids for each kind of token is printed in a
        second and saves a day.
        """,
    steps=(
        Step("one word, one code", caption([[3]], [[[0]]], 7), stream_by_loop),
        Step("two words, a grid of one row", caption([[1, 4]], [[[2, 0, 5]]], 7), stream_by_loop),
        Step("two rows of three", caption([[1, 2]], [[[0, 1, 2], [3, 4, 5]]], 7), stream_by_loop),
        Step(
            "two captions",
            caption([[1, 2, 6], [0, 5, 3]], [[[0, 1], [2, 3]], [[8, 6], [7, 9]]], 11),
            stream_by_loop,
        ),
        Step(
            "two captions, grids of two rows and three columns, not contiguous",
            {
                "text_ids": tensor([[1, 0], [2, 2], [4, 4]]).T,
                "codes": tensor([[[0, 1], [2, 3]], [[4, 5], [6, 7]], [[8, 9], [1, 0]]]).permute(
                    1, 2, 0
                ),
                "text_vocab_size": 50,
            },
            stream_by_loop,
        ),
    ),
    wrong=(
        Wrong("codes and words still share their numbers", "(codes + text_vocab_size)", "codes"),
        Wrong(
            "the codes are moved, not the words",
            "[text_ids, (codes + text_vocab_size)",
            "[text_ids + text_vocab_size, (codes)",
        ),
        Wrong(
            "moved by the text's length, not by its vocabulary",
            "codes + text_vocab_size",
            "codes + text_ids.size(1)",
        ),
        Wrong(
            "column by column: read row by row",
            "text_vocab_size).flatten",
            "text_vocab_size).transpose(1, 2).flatten",
        ),
        Wrong(
            "the picture stands in front of the text",
            """
            def one_stream(text_ids, codes, text_vocab_size):
                return torch.cat([(codes + text_vocab_size).flatten(1), text_ids], dim=1)
            """,
        ),
        Wrong("the vocabulary is given: not always 7", "text_vocab_size).flatten", "7).flatten"),
        Wrong(
            "moved behind the largest id of the text, not behind its vocabulary",
            "codes + text_vocab_size",
            "codes + text_ids.max() + 1",
        ),
        Wrong("the grid is upside down: the first row first", "(codes +", "(codes.flip(1) +"),
        Wrong("each row is mirrored: the first column first", "(codes +", "(codes.flip(2) +"),
        Wrong(
            "the captions' grids are mixed: each picture stays in its own row",
            "(codes + text_vocab_size).flatten(1)",
            "(codes + text_vocab_size).flatten().view(-1, len(codes)).T",
        ),
        Wrong(
            "the first code is text_vocab_size itself",
            "codes + text_vocab_size",
            "codes + 1 + text_vocab_size",
        ),
    ),
)
