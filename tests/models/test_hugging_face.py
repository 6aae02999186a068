"""The tables of names, one by one; that outputs and gradients agree is tested with each model."""

import re

import pytest
import torch

from tfm_lib.models import hugging_face
from tfm_lib.models.hugging_face import (
    BERT_FOR_PRE_TRAINING,
    GPT_2,
    XLNET,
    Conversion,
    from_hugging_face,
)

transformers = pytest.importorskip("transformers")

VOCAB = 29
WORDS = {"vocab_size": VOCAB}
BERT_SIZES = WORDS | {
    "hidden_size": 12,
    "num_attention_heads": 3,
    "num_hidden_layers": 2,
    "intermediate_size": 20,
    "max_position_embeddings": 17,
}
THEIRS = {  # our table -> their configuration, their class, sizes
    "GPT_2": (
        transformers.GPT2Config,
        transformers.GPT2LMHeadModel,
        WORDS | {"n_positions": 17, "n_embd": 12, "n_head": 3, "n_layer": 2},
    ),
    "BERT": (transformers.BertConfig, transformers.BertModel, BERT_SIZES),
    "BERT_FOR_PRE_TRAINING": (transformers.BertConfig, transformers.BertForPreTraining, BERT_SIZES),
    "XLNET": (
        transformers.XLNetConfig,
        transformers.XLNetLMHeadModel,
        WORDS | {"d_model": 12, "n_head": 3, "n_layer": 2, "d_inner": 20},
    ),
}
TABLES = {name: t for name, t in vars(hugging_face).items() if isinstance(t, Conversion)}
EVERY = pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
OTHER_VALUES = {  # what a configuration may ask for and ours has not
    "activation_function": "relu",
    "add_cross_attention": True,
    "attn_type": "uni",
    "bi_data": True,
    "clamp_len": 3,
    "ff_activation": "relu",
    "hidden_act": "relu",
    "is_decoder": True,
    "layer_norm_eps": 1e-5,
    "layer_norm_epsilon": 1e-3,
    "scale_attn_by_inverse_layer_idx": True,
    "scale_attn_weights": False,
    "tie_word_embeddings": False,
    "type_vocab_size": 3,
}


CHANGE_NOTHING = {  # in evaluation, of these models; or an array of another shape tells
    *("attn_pdrop", "embd_pdrop", "attention_probs_dropout_prob", "classifier_dropout"),
    *("bos_token_id", "eos_token_id", "pad_token_id", "use_cache", "initializer_range"),
    *("d_head", "n_inner", "reorder_and_upcast_attn", "tie_word_embeddings"),
    *("mem_len", "reuse_len", "same_length", "use_mems_eval", "use_mems_train"),
    *("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"),
    *("summary_first_dropout", "summary_last_dropout", "start_n_top", "end_n_top"),
}


def theirs_of(table):
    return next(THEIRS[name] for name, other in TABLES.items() if other is table)


def file_of(table):
    """A config.json and arrays by name, as a file of that model would hold them."""
    config_class, model_class, sizes = theirs_of(table)
    torch.manual_seed(0)
    theirs = model_class(config_class(**sizes))
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    return theirs.config.to_dict(), theirs.state_dict()


def same(model, other):
    theirs = other.state_dict()
    return all(torch.equal(weight, theirs[name]) for name, weight in model.state_dict().items())


def test_every_table_is_tried():
    assert THEIRS.keys() == TABLES.keys()


@EVERY
def test_the_model_comes_for_evaluation_and_holds_what_the_file_held(table):
    config, weights = file_of(table)
    model = from_hugging_face(table, config, weights)
    assert type(model) is table.model
    assert not model.training
    zeros = table.zeros
    for name, parameter in model.named_parameters():
        assert parameter.eq(0).all() == bool(zeros and name.endswith(zeros)), name
        assert parameter.dtype == torch.float32


@EVERY
def test_no_line_of_a_table_is_idle(table):
    config, weights = file_of(table)
    names = [name.removeprefix(table.prefix) for name in weights]
    for line in table.names:
        wanted = line.format(n=1)
        assert any(name == wanted or name.rpartition(".")[0] == wanted for name in names), line
    for end in table.reshape:
        assert any(name.endswith(end) for name in names), end
    model = from_hugging_face(table, config, weights)
    for end in table.zeros:
        assert any(name.endswith(end) for name, _ in model.named_parameters()), end


@EVERY
def test_every_array_counts(table):
    config, weights = file_of(table)
    before = from_hugging_face(table, config, weights)
    for name, weight in weights.items():
        if name.endswith(table.left_out):
            continue
        twins = {other: weight + 1 for other, w in weights.items() if torch.equal(w, weight)}
        assert not same(before, from_hugging_face(table, config, weights | twins)), name
        if len(twins) > 1:
            with pytest.raises(ValueError, match="one array here, and two in the file"):
                from_hugging_face(table, config, weights | {name: weight + 1})


@EVERY
def test_each_fixed_value_is_their_default_and_no_other_is_accepted(table):
    default = theirs_of(table)[0]().to_dict()
    config, weights = file_of(table)
    for name, value in table.fixed.items():
        assert default[name] == value
        with pytest.raises(ValueError, match=f"need {name}={value!r}, got"):
            from_hugging_face(table, config | {name: OTHER_VALUES[name]}, weights)
        del config[name]
    from_hugging_face(table, config, weights)


@EVERY
def test_a_configuration_without_a_size_is_refused(table):
    config, weights = file_of(table)
    for name in table.sizes:
        lacking = config | {name: None}
        with pytest.raises(ValueError, match=f"the configuration lacks {name}"):
            from_hugging_face(table, lacking, weights)
        del lacking[name]
        with pytest.raises(ValueError, match=f"the configuration lacks {name}"):
            from_hugging_face(table, lacking, weights)


@EVERY
def test_arrays_without_a_place_missing_and_of_another_shape_are_named(table):
    config, weights = file_of(table)
    with pytest.raises(ValueError, match=r"no place for adapter\.weight"):
        from_hugging_face(table, config, weights | {"adapter.weight": torch.ones(2)})
    name = next(name for name in weights if name.endswith("1.layer_norm.bias") or ".1." in name)
    with pytest.raises(RuntimeError, match=r"Missing key.*layers\.1\."):
        from_hugging_face(table, config, {n: w for n, w in weights.items() if n != name})
    narrow = weights[name][..., :-3]
    with pytest.raises(RuntimeError, match=r"size mismatch for .*layers\.1\."):
        from_hugging_face(table, config, weights | {name: narrow})


@pytest.mark.parametrize(
    ("table", "name", "shape"),
    [
        (GPT_2, "transformer.h.1.attn.c_attn.weight", (12, 2)),
        (GPT_2, "transformer.h.1.attn.c_attn.weight", (12, 36, 1)),
        (XLNET, "transformer.layer.1.rel_attn.q", (12, 12)),
        (XLNET, "transformer.layer.1.rel_attn.q", (12,)),
        (XLNET, "transformer.mask_emb", ()),
    ],
)
def test_an_array_that_cannot_be_reshaped_is_named(table, name, shape):
    config, weights = file_of(table)
    with pytest.raises(ValueError, match=re.escape(f"{name} has the wrong shape {shape}")):
        from_hugging_face(table, config, weights | {name: torch.ones(shape)})


@EVERY
def test_every_setting_of_theirs_is_read_fixed_or_changes_nothing(table):
    """What a configuration can say about this kind of model, and what none of ours looks at."""
    everyones = transformers.PretrainedConfig().to_dict()
    said = {name for name in theirs_of(table)[0]().to_dict() if name not in everyones}
    assert said - table.sizes.keys() - table.fixed.keys() <= CHANGE_NOTHING


@pytest.mark.parametrize(
    ("table", "second"),
    [
        (GPT_2, "lm_head.weight"),
        (XLNET, "lm_loss.weight"),
        (BERT_FOR_PRE_TRAINING, "cls.predictions.decoder.weight"),
        (BERT_FOR_PRE_TRAINING, "cls.predictions.decoder.bias"),
    ],
)
def test_what_is_tied_may_stand_in_the_file_once(table, second):
    config, weights = file_of(table)
    whole = from_hugging_face(table, config, dict(weights))
    del weights[second]
    assert same(whole, from_hugging_face(table, config, weights))


@EVERY
def test_older_files_load(table):
    config, weights = file_of(table)
    new = from_hugging_face(table, config, weights)
    older = {}
    for name, weight in weights.items():
        name = name.removeprefix(table.prefix)
        if "LayerNorm" in name:
            name = name.replace("weight", "gamma").replace("bias", "beta")
        older[name] = weight
    for end in table.left_out:
        older[f"h.1{end}" if end.startswith(".") else end] = torch.ones(1, dtype=torch.int64)
    assert older.keys() != weights.keys()
    assert same(new, from_hugging_face(table, config, older))


@EVERY
def test_precision_is_the_files_and_options_reach_the_model(table):
    config, weights = file_of(table)
    half = {name: weight.bfloat16() for name, weight in weights.items()}
    model = from_hugging_face(table, config, half, dropout=0.0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    drops = [m.p for m in model.modules() if isinstance(m, torch.nn.Dropout)]
    assert set(drops) == {0.0}
