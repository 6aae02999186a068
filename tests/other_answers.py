"""Right answers to exercises, written otherwise than the solutions: the checks must take them."""

import math

import torch
from torch.nn import functional as F


def perplexity(probabilities):
    return torch.tensor(probabilities).log().mean().neg().exp()


def ones_modulo_3(texts):
    return tuple(sum(map(int, t)) % 3 for t in texts)


def clip_together(grads, max_norm):
    n = torch.cat([g.flatten() for g in grads]).norm()
    return tuple(g * (max_norm / n) if n > max_norm else g.clone() for g in grads)


def read_through_time(x, w_x, w_h):
    h = torch.zeros(len(x), len(w_h))
    o = []
    for t in range(x.size(1)):
        h = (F.linear(x[:, t], w_x) + F.linear(h, w_h)).tanh()
        o.append(h)
    return torch.stack(o, 1)


def both_ways(ahead, back, x):
    b = back(torch.flip(x, [1]))
    return torch.cat((ahead(x), torch.flip(b, [1])), 2)


def loss_without_pads(logits, labels, pad_id):
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=pad_id)


def write_greedily_alone(next_logits, max_len):
    ids = [1]
    while len(ids) <= max_len:
        t = int(next_logits(ids).argmax())
        if t == 2:
            break
        ids.append(t)
    return ids[1:]


def general_score(query, key, w):
    return torch.einsum("...qi,ij,...kj->...qk", query, w, key)


def attend_to_tokens(query, memory, mask):
    s = torch.where(mask, query @ memory.mT, torch.finfo(torch.float32).min)
    return (s.softmax(-1) * mask) @ memory


def attend(query, key, value):
    w = torch.einsum("...qd,...kd->...qk", query, key).div(query.shape[-1] ** 0.5).exp()
    w = w / w.sum(-1, keepdim=True)
    return [w @ value, w]


def softmax_of(scores):
    return (scores - scores.logsumexp(-1, keepdim=True)).exp()


def softmax_backward(weights, grad):
    return (
        (torch.diag_embed(weights) - weights[..., None] * weights[..., None, :]) @ grad[..., None]
    )[..., 0]


def shuffle_gap(layer, x, order):
    return torch.dist(layer(x)[:, order], layer(x[:, order]), p=math.inf)


def self_attend(x, w_q, w_k, w_v):
    return F.scaled_dot_product_attention(x @ w_q, x @ w_k, x) @ w_v


def judge_mirror(x):
    def s(r):
        g = r @ r.T
        return sum(
            all(g[i, i] > g[i, j] + 1e-5 for j in range(len(r)) if j != i) for i in range(len(r))
        ) / len(r)

    a, b = s(x), s(F.normalize(x))
    return {
        "verdict": "holds"
        if a == 1
        else "holds within limits"
        if b == 1
        else "does not hold as stated",
        "raw": a,
        "equal length": b,
    }


def contributions(heads, w_o):
    _, h, _, d = heads.shape
    return torch.einsum("bhld,hdm->bhlm", heads, w_o.view(h, d, -1))


def grouped_attention(query, key, value):
    return F.scaled_dot_product_attention(query, key, value, enable_gqa=True)


def prefix_mask(size, prefix):
    m = torch.ones(size, size).tril().bool()
    m[:prefix, :prefix] = True
    return m


def mean_of_tokens(x, is_token):
    n = is_token.sum(1, keepdim=True)
    return torch.where(is_token[..., None], x, torch.zeros(())).sum(1) / torch.maximum(
        n, torch.ones_like(n)
    )


def positions_of(token_ids, pad_id):
    k = (token_ids != pad_id).int()
    return ((k.cumsum(1) - k) * k).int()


def add_positions(x, encoding, start):
    return x + encoding[start:][: x.size(1)]


def judge_encoding(base, d_model, length):
    w = base ** (-torch.arange(0, d_model, 2) / d_model)
    a = torch.arange(length)[:, None] * w
    e = torch.stack([a.sin(), a.cos()], -1).flatten(1)
    d = torch.pdist(e)
    g = float(d.min())
    return {"gap": g, "verdict": "holds" if g > 0.1 else "does not hold as stated"}
