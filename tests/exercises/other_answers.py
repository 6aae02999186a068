"""Right answers to exercises, written otherwise than the solutions: the checks must take them."""

import math

import torch
from torch import nn
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
    surprise = logits.logsumexp(-1) - logits.gather(-1, labels[..., None])[..., 0]
    counts = labels != pad_id
    return (surprise * counts).sum() / counts.sum()


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
    s = torch.einsum("...qd,...kd->...qk", query, key).div(query.shape[-1] ** 0.5)
    w = (s - s.logsumexp(-1, keepdim=True)).exp()
    return [w @ value, w]


def softmax_of(scores):
    return (scores - scores.logsumexp(-1, keepdim=True)).exp()


def softmax_backward(weights, grad):
    m = weights * grad
    return m - weights * torch.einsum("...k->...", m)[..., None]


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


def layer_norm(x, weight, bias, eps):
    v, m = torch.var_mean(x, -1, correction=0, keepdim=True)
    return torch.addcmul(bias, (x - m) * torch.rsqrt(v + eps), weight)


def pre_norm_step(x, sublayer, norm, dropout):
    y = dropout(sublayer(norm(x)))
    return y + x


class FeedForwardBlock(nn.Module):
    def __init__(self, d_model, d_ff, p):
        super().__init__()
        self.expand = nn.Linear(d_model, d_ff)
        self.contract = nn.Linear(d_ff, d_model)
        self.p = p

    def forward(self, x):
        y = self.contract(F.relu(self.expand(x)))
        if self.training:
            y = y * torch.empty_like(y).bernoulli_(1 - self.p) / (1 - self.p)
        return x + y


class TiedEnds(nn.Module):
    def __init__(self, vocab_size, d_model):
        super().__init__()
        self.scale = d_model**0.5
        self.embedding = nn.Embedding(vocab_size, d_model)

    def forward(self, token_ids):
        return F.linear(self.embedding(token_ids) * self.scale, self.embedding.weight)


def decoder_step(layer, x, memory, mask, memory_mask):
    return layer(x, memory, mask, memory_mask)


def judge_balance(weight, encoding, scale):
    r = scale * weight.norm() / weight.numel() ** 0.5 / encoding.norm() * encoding.numel() ** 0.5
    v = ["the token drowns", "both are heard", "the position drowns"]
    return {"ratio": r, "verdict": v[int(r >= 0.1) + int(r > 10)]}


def teacher_forced_loss(model, src_ids, tgt_ids, pad_id):
    p = model(src_ids, tgt_ids[:, :-1]).log_softmax(-1)
    y = tgt_ids[:, 1:]
    picked = p.gather(-1, y[..., None])[..., 0]
    return -picked[y != pad_id].mean()


def smoothed_targets(labels, vocab_size, smoothing, pad_id):
    t = torch.full((len(labels), vocab_size), smoothing / vocab_size)
    t[torch.arange(len(labels)), labels] += 1 - smoothing
    t[labels == pad_id] = 0
    return t


def loss_in_pieces(pieces, pad_id):
    x, y = (torch.cat(p) for p in zip(*pieces, strict=True))
    return F.cross_entropy(x, y, ignore_index=pad_id)


def top_p_set(probabilities, p):
    larger = probabilities[:, None, :] > probabilities[:, :, None]
    j = torch.arange(probabilities.size(1))
    tie = (probabilities[:, None, :] == probabilities[:, :, None]) & (j[None, :] < j[:, None])
    return ((larger | tie) * probabilities[:, None, :]).sum(-1) < p


def attend_with_cache(query, key, value, cache):
    k, v = (torch.cat(pair, 2) for pair in zip(cache, (key, value), strict=True))
    s = query @ k.mT / math.sqrt(k.size(-1))
    late = torch.arange(k.size(2)) > torch.arange(k.size(2) - query.size(2), k.size(2))[:, None]
    return s.masked_fill(late, -math.inf).softmax(-1) @ v, [k, v]


def extend_beam(tokens, log_probs, logits):
    t = (log_probs[:, None] + torch.log_softmax(logits, 1)).reshape(-1)
    v, i = t.sort(descending=True)
    n = len(tokens)
    p = torch.div(i[:n], logits.shape[1], rounding_mode="floor")
    return torch.hstack([tokens[p], (i[:n] - p * logits.shape[1])[:, None]]), v[:n]


def streamed_average(pieces):
    log_total, average = torch.tensor(-torch.inf), 0.0
    for scores, values in pieces:
        log_piece = scores.logsumexp(0)
        both = torch.logaddexp(log_total, log_piece)
        old, new = (log_total - both).exp(), (log_piece - both).exp()
        average = average * old + scores.softmax(0) @ values * new
        log_total = both
    return average


def attend_in_chunks(query, key, value, size):
    rows = []
    for start, q in zip(range(0, len(query), size), query.split(size), strict=True):
        late = torch.arange(len(key)) > torch.arange(start, start + len(q))[:, None]
        scores = (q @ key.T).div(math.sqrt(key.shape[1]))
        rows.append(torch.where(late, -math.inf, scores).softmax(-1) @ value)
    return torch.cat(rows)


def cut_by_tokens(lengths, budget):
    batches, start = [], 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or max(lengths[start : end + 1]) * (end + 1 - start) > budget:
            batches.append(lengths[start:end])
            start = end
    return batches


def translate_all(texts, translate, batch_size):
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    written = [text for batch in batches for text in translate([texts[i] for i in batch])]
    return [written[order.index(i)] for i in range(len(texts))]


def answer_loss(logits, token_ids, prompt_len):
    log_probs = logits.log_softmax(-1)[:, :-1].gather(-1, token_ids[:, 1:, None])[..., 0]
    return -log_probs[:, prompt_len - 1 :].mean()


def write_on(model, token_ids, count, context):
    columns = list(token_ids.unbind(1))
    for _ in range(count):
        columns.append(model(torch.stack(columns[-context:], 1))[:, -1].argmax(-1))
    return torch.stack(columns, 1)


def layers_needed(mask):
    power, needed = torch.eye(len(mask)), torch.full(mask.shape, -1)
    for layer in range(len(mask) + 1):
        needed = torch.where((power > 0) & (needed == -1), layer, needed)
        power = (mask.double() @ power.double()).clamp(max=1)
    return needed


def strided_mask(length, stride):
    rows = [
        [j <= i and (i - j <= stride or (i - j) % stride == 0) for j in range(length)]
        for i in range(length)
    ]
    return torch.tensor(rows)


def corrupt(token_ids, draw, fate, words, mask_id, pad_id):
    inputs, labels = token_ids.clone(), torch.full_like(token_ids, -100)
    for at in ((draw < 0.15) & (token_ids != pad_id)).nonzero():
        at = tuple(at)
        labels[at] = token_ids[at]
        if fate[at] < 0.8:
            inputs[at] = mask_id
        elif fate[at] >= 0.9:
            inputs[at] = words[at]
    return inputs, labels


def rank_by_first(hidden, token_ids):
    means = torch.stack([h[ids != 0].mean(0) for h, ids in zip(hidden, token_ids, strict=True)])
    return F.cosine_similarity(means, means[0], dim=-1)


def shift_rows(scores):
    count, width = scores.shape
    flat = F.pad(scores, (0, count)).flatten()[count - 1 : count * (width + count) - 1]
    return flat.view(count, -1)[:, :width]


def remember(memory, segment, memory_len):
    both = [*memory, *segment]
    kept = both[-memory_len:] if memory_len else []
    return torch.stack(kept).detach() if kept else memory[:0]


def query_look(query, content, turn):
    rows = []
    for i in range(len(turn)):
        seen = content[turn < turn[i]]
        rows.append((query[i] @ seen.T / query.size(1) ** 0.5).softmax(-1) @ seen)
    return torch.stack(rows)


def content_sight(order):
    turn = torch.empty_like(order)
    turn[order] = torch.arange(len(order))
    return turn[:, None] >= turn


def one_code(logits, noise, temperature):
    soft = F.softmax((logits + noise) / temperature, -1)
    hard = torch.zeros_like(soft).scatter(1, soft.argmax(-1, keepdim=True), 1.0)
    return (hard - soft).detach() + soft


def one_stream(text_ids, codes, text_vocab_size):
    return torch.cat([text_ids, *(row + text_vocab_size for row in codes.unbind(1))], dim=1)
