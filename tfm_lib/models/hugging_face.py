"""Published weights under Hugging Face's names: a table for each model, one function for all.

    GPT_2, BERT, BERT_FOR_PRE_TRAINING, XLNET     what they call things, what we call them
    from_hugging_face(GPT_2, config, weights)     a table, a config.json, arrays by name -> a model

Their library is not needed: a config.json is a dictionary, and `safetensors` reads the arrays. The
tests hold each table against it: outputs, losses, gradients.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from tfm_lib.models.bert import EPS, Bert, BertForPreTraining
from tfm_lib.models.gpt import GPT
from tfm_lib.models.xlnet import XLNet

Model = TypeVar("Model", bound=nn.Module)

# The last part of an array's name; gamma and beta stand in the oldest files.
KINDS = {"weight": "weight", "bias": "bias", "gamma": "weight", "beta": "bias"}


@dataclass(frozen=True)
class Conversion(Generic[Model]):
    """How Hugging Face writes down a model, and how we do.

    model: our class.
    sizes: a name in their config.json -> an argument of our class.
    fixed: a name in their config.json -> the one value that our class has. Each is their default,
    so a config.json may leave it out.
    names: theirs -> ours, of an array, or of a module with `.weight` and `.bias`; {n} stands for
    every layer's number. Where ours are several, theirs holds them side by side.
    prefix: what some files put before every name. left_out: how the names of arrays end that are
    not needed. zeros: how the names of ours end that theirs has not, which counts as 0.
    reshape: how a name of theirs ends -> the map from its array to ours.
    """

    model: type[Model]
    sizes: Mapping[str, str]
    fixed: Mapping[str, object]
    names: Mapping[str, str | list[str]]
    prefix: str = ""
    left_out: tuple[str, ...] = ()
    zeros: tuple[str, ...] = ()
    reshape: Mapping[str, Callable[[Tensor], Tensor]] = field(default_factory=dict)


GPT_2 = Conversion(
    model=GPT,
    sizes={
        "vocab_size": "vocab_size",
        "n_positions": "max_len",
        "n_embd": "d_model",
        "n_head": "num_heads",
        "n_layer": "num_layers",
        "resid_pdrop": "dropout",
    },
    fixed={
        "activation_function": "gelu_new",
        "add_cross_attention": False,
        "layer_norm_epsilon": 1e-5,
        "scale_attn_by_inverse_layer_idx": False,
        "scale_attn_weights": True,
        "tie_word_embeddings": True,
    },
    names={
        "wte": "tokens",
        "wpe": "positions.embedding",
        "h.{n}.ln_1": "stack.layers.{n}.residuals.0.norm",
        "h.{n}.attn.c_attn": [
            "stack.layers.{n}.self_attention.q_proj",
            "stack.layers.{n}.self_attention.k_proj",
            "stack.layers.{n}.self_attention.v_proj",
        ],
        "h.{n}.attn.c_proj": "stack.layers.{n}.self_attention.out_proj",
        "h.{n}.ln_2": "stack.layers.{n}.residuals.1.norm",
        "h.{n}.mlp.c_fc": "stack.layers.{n}.feed_forward.expand",
        "h.{n}.mlp.c_proj": "stack.layers.{n}.feed_forward.contract",
        "ln_f": "stack.norm",
        "lm_head": "generator",
    },
    prefix="transformer.",
    left_out=(".attn.bias", ".attn.masked_bias"),  # the causal mask, in older files
    reshape={  # theirs are (in, out), those of nn.Linear (out, in)
        ".c_attn.weight": torch.t,
        ".c_proj.weight": torch.t,
        ".c_fc.weight": torch.t,
    },
)

BERT = Conversion(
    model=Bert,
    sizes={
        "vocab_size": "vocab_size",
        "hidden_size": "d_model",
        "num_attention_heads": "num_heads",
        "num_hidden_layers": "num_layers",
        "intermediate_size": "d_ff",
        "max_position_embeddings": "max_len",
        "hidden_dropout_prob": "dropout",
        "pad_token_id": "pad_id",
    },
    fixed={
        "add_cross_attention": False,
        "hidden_act": "gelu",
        "is_decoder": False,  # True would make it causal
        "layer_norm_eps": EPS,
        "type_vocab_size": 2,
    },
    names={
        "embeddings.word_embeddings": "embedding.tokens",
        "embeddings.token_type_embeddings": "embedding.segments",
        "embeddings.position_embeddings": "embedding.positions.embedding",
        "embeddings.LayerNorm": "embedding.norm",
        "encoder.layer.{n}.attention.self.query": "encoder.layers.{n}.self_attention.q_proj",
        "encoder.layer.{n}.attention.self.key": "encoder.layers.{n}.self_attention.k_proj",
        "encoder.layer.{n}.attention.self.value": "encoder.layers.{n}.self_attention.v_proj",
        "encoder.layer.{n}.attention.output.dense": "encoder.layers.{n}.self_attention.out_proj",
        "encoder.layer.{n}.attention.output.LayerNorm": "encoder.layers.{n}.residuals.0.norm",
        "encoder.layer.{n}.intermediate.dense": "encoder.layers.{n}.feed_forward.expand",
        "encoder.layer.{n}.output.dense": "encoder.layers.{n}.feed_forward.contract",
        "encoder.layer.{n}.output.LayerNorm": "encoder.layers.{n}.residuals.1.norm",
        "pooler.dense": "pooler",
    },
    left_out=("embeddings.position_ids",),  # 0, 1, 2, ... in older files
)

BERT_FOR_PRE_TRAINING = Conversion(
    model=BertForPreTraining,
    sizes=BERT.sizes,
    fixed={**BERT.fixed, "tie_word_embeddings": True},
    names={
        **{f"bert.{theirs}": f"bert.{ours}" for theirs, ours in BERT.names.items()},
        "cls.predictions.transform.dense": "masked_head.dense",
        "cls.predictions.transform.LayerNorm": "masked_head.norm",
        "cls.predictions.decoder": "masked_head.decoder",
        "cls.seq_relationship": "next_head",
        "cls.predictions.bias": "masked_head.decoder.bias",  # the decoder's, some hold it here
    },
    left_out=BERT.left_out,
)


def joined_heads(weight: Tensor) -> Tensor:
    """Theirs is (in, num_heads, d_k), ours (out, in)."""
    if weight.dim() != 3:
        raise ValueError("need (in, num_heads, d_k)")
    return weight.flatten(1).T


def joined_heads_of_waves(weight: Tensor) -> Tensor:
    """The same for encoded distances: theirs are all sines, then all cosines; ours take turns."""
    return joined_heads(weight).unflatten(1, (2, -1)).transpose(1, 2).flatten(1)


XLNET = Conversion(
    model=XLNet,
    sizes={
        "vocab_size": "vocab_size",
        "d_model": "d_model",
        "n_head": "num_heads",
        "n_layer": "num_layers",
        "d_inner": "d_ff",
        "dropout": "dropout",
    },
    fixed={
        "attn_type": "bi",
        "bi_data": False,
        "clamp_len": -1,
        "ff_activation": "gelu",
        "layer_norm_eps": 1e-12,
        "tie_word_embeddings": True,
    },
    names={
        "word_embedding": "embedding",
        "mask_emb": "query_start",
        "layer.{n}.rel_attn.q": "layers.{n}.attention.q_proj.weight",
        "layer.{n}.rel_attn.k": "layers.{n}.attention.k_proj.weight",
        "layer.{n}.rel_attn.v": "layers.{n}.attention.v_proj.weight",
        "layer.{n}.rel_attn.o": "layers.{n}.attention.out_proj.weight",
        "layer.{n}.rel_attn.r": "layers.{n}.attention.r_proj.weight",
        "layer.{n}.rel_attn.r_w_bias": "layers.{n}.attention.content_bias",
        "layer.{n}.rel_attn.r_r_bias": "layers.{n}.attention.position_bias",
        "layer.{n}.rel_attn.layer_norm": "layers.{n}.residuals.0.norm",
        "layer.{n}.ff.layer_1": "layers.{n}.feed_forward.expand",
        "layer.{n}.ff.layer_2": "layers.{n}.feed_forward.contract",
        "layer.{n}.ff.layer_norm": "layers.{n}.residuals.1.norm",
        "lm_loss": "generator",
    },
    prefix="transformer.",
    left_out=(".r_s_bias", ".seg_embed"),  # their segment terms, idle without token_type_ids
    zeros=(".q_proj.bias", ".k_proj.bias", ".v_proj.bias", ".out_proj.bias"),
    reshape={
        "mask_emb": lambda weight: weight[0],  # (1, 1, d_model) -> (1, d_model)
        ".r_w_bias": lambda weight: weight[:, None],  # (num_heads, d_k) -> (num_heads, 1, d_k)
        ".r_r_bias": lambda weight: weight[:, None],
        ".q": joined_heads,
        ".k": joined_heads,
        ".v": joined_heads,
        ".r": joined_heads_of_waves,
        ".o": lambda weight: weight.flatten(1),  # (out, num_heads, d_k) -> (out, in)
    },
)


def from_hugging_face(
    table: Conversion[Model],
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    **options: Any,
) -> Model:
    """Build one of our models from a config.json and arrays by name.

    config: their configuration as a dictionary; weights: as a `state_dict` or
    `safetensors.torch.load_file` gives them; options: further arguments of our class.
    The model comes in evaluation mode, in the arrays' precision. Dropout stands where our models
    have it, on embeddings and sub-layers.
    Raises ValueError for a configuration that lacks a size or asks for what our class has not, and
    for an array that has no place in it or contradicts another; RuntimeError, naming each, if
    arrays are missing or of another shape.
    """
    for name, value in table.fixed.items():
        if (found := config.get(name, value)) != value:
            raise ValueError(f"need {name}={value!r}, got {found!r}")
    if lacking := [name for name in table.sizes if config.get(name) is None]:
        raise ValueError(f"the configuration lacks {', '.join(lacking)}")
    sizes = {ours: config[theirs] for theirs, ours in table.sizes.items()}
    mine = table.model(**(sizes | options))
    ours = _renamed(table, weights, sizes["num_layers"])
    for name, parameter in mine.named_parameters():
        if name.endswith(table.zeros):
            ours[name] = torch.zeros_like(parameter)
    _tie(mine, ours)
    mine.to(next((w.dtype for w in ours.values()), torch.get_default_dtype()))
    mine.load_state_dict(ours)
    return mine.eval()


def _places(table: Conversion, num_layers: int) -> dict[str, list[str]]:
    """The table's names with every layer's number in them: theirs -> ours, several side by side."""
    places = {}
    for theirs, ours in table.names.items():
        for n in range(num_layers):
            names = ours if isinstance(ours, list) else [ours]
            places[theirs.format(n=n)] = [name.format(n=n) for name in names]
    return places


def _renamed(
    table: Conversion, weights: Mapping[str, Tensor], num_layers: int
) -> dict[str, Tensor]:
    """Their arrays in our shapes and under our names."""
    places = _places(table, num_layers)
    ours: dict[str, Tensor] = {}
    for full_name, weight in weights.items():
        theirs = full_name.removeprefix(table.prefix)
        if theirs.endswith(table.left_out):
            continue
        stem, _, kind = theirs.rpartition(".")
        if theirs in places:
            names = places[theirs]
        elif stem in places and kind in KINDS:
            names = [f"{name}.{KINDS[kind]}" for name in places[stem]]
        else:
            raise ValueError(f"our model has no place for {full_name}")
        try:
            for end, reshape in table.reshape.items():
                if theirs.endswith(end):
                    weight = reshape(weight)
            parts = list(zip(names, weight.chunk(len(names)), strict=True))
        except (RuntimeError, IndexError, ValueError) as error:
            shape = tuple(weights[full_name].shape)
            raise ValueError(f"{full_name} has the wrong shape {shape}: {error}") from error
        for name, part in parts:
            if not torch.equal(ours.setdefault(name, part), part):
                raise ValueError(f"{name} is one array here, and two in the file")
    return ours


def _tie(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give an array that the model has under two names both of them; a file may hold it once."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for parameter in model.parameters():  # each once
        twins = [other for other in parameters if parameters[other] is parameter]
        held = [weights[twin] for twin in twins if twin in weights]
        if any(not torch.equal(held[0], other) for other in held[1:]):
            raise ValueError(f"{' and '.join(twins)} are one array here, and two in the file")
        weights.update((twin, held[0]) for twin in twins if held)
