"""The library's layers, held as data: a module imports only what stands below it."""

import ast
import subprocess
import sys

import pytest

from tools.lessons import ROOT

PACKAGE = ROOT / "tfm_lib"
MAX_LINES = 320  # 300 is the aim
MAX_DECLARATIONS = 400  # of a lesson's exercises: mostly text

# module -> the modules it may import. Each line uses only modules of the lines above it.
LAYERS = {
    "vocab": set(),
    "tokenizers": set(),
    "masks": set(),
    "positions": set(),
    "recurrent": set(),
    "decoding": set(),
    "training": set(),
    "plotting": set(),
    "tables": set(),
    "lexicon": set(),
    "grammar": {"lexicon"},
    "sentences": {"grammar", "lexicon"},
    "corpus": {"sentences", "grammar", "lexicon"},
    "attention": {"masks"},
    "blocked_attention": {"attention"},
    "sparse_attention": {"attention", "blocked_attention", "masks"},
    "language_data": set(),
    "download": set(),
    "datasets": {"vocab", "tokenizers", "grammar", "corpus"},
    "multi30k": {"datasets", "download"},
    "seq2seq": {"attention", "decoding", "recurrent"},
    "relative_attention": {"attention", "masks", "positions"},
    "transformer": {"attention", "masks", "positions"},
    "models/sparse_transformer": {"attention", "transformer"},
    "cache": {"decoding", "masks", "transformer"},
    "models/transformer_xl": {"decoding", "masks", "relative_attention", "transformer"},
    "models/gpt": {
        *("attention", "cache", "decoding", "masks"),
        *("positions", "training", "transformer"),
    },
    "models/bert": {"attention", "masks", "positions", "training", "transformer"},
    "models/xlnet": {"decoding", "relative_attention", "transformer"},
    "image_attention": {"attention", "masks"},
    "models/dalle": {"attention", "decoding", "transformer"},
    "runs": set(),
    "parallel_text": {"datasets"},
    "translator": {
        *("attention", "cache", "datasets", "decoding", "runs"),
        *("seq2seq", "tokenizers", "transformer", "vocab"),
    },
    "workers": set(),
    "trainer": {"datasets", "parallel_text", "runs", "training", "translator", "workers"},
    "train": {
        *("datasets", "multi30k", "parallel_text", "runs"),
        *("tokenizers", "trainer", "translator", "workers"),
    },
    "translate": {"plotting", "translator"},
    "environment": {"datasets"},
    "__init__": set(),
    "models/__init__": set(),
    "__main__": {"environment"},
}
# Exercises stand below everything and above nothing: no other line may name them.
LIBRARY = set(LAYERS)
LAYERS |= {
    "exercises/values": set(),
    "exercises/running": set(),
    "exercises/state": set(),
    "exercises/declare": set(),
    **{
        f"exercises/{path.stem}": LIBRARY | {"exercises/declare"}
        for path in PACKAGE.glob("exercises/lesson_*.py")
    },
    "exercises/catalogue": {"exercises/declare"},
    "exercises/engine": {"exercises/declare", "exercises/running", "exercises/values"},
    "exercises/verbs": {
        *("exercises/catalogue", "exercises/declare", "exercises/engine", "exercises/state"),
        "tables",
    },
    "exercises/trials": {
        *("exercises/catalogue", "exercises/declare", "exercises/engine"),
        "tables",
    },
    "exercises/__init__": {"exercises/verbs"},
    "exercises/__main__": {
        *("exercises/catalogue", "exercises/running", "exercises/trials", "exercises/verbs"),
    },
}

modules = sorted(path.relative_to(PACKAGE).as_posix()[:-3] for path in PACKAGE.rglob("*.py"))
every_module = pytest.mark.parametrize("module", modules)


def test_the_table_is_the_package_and_points_downward():
    assert set(modules) == set(LAYERS), "a new module needs its line in LAYERS"
    below = set()
    for module, allowed in LAYERS.items():
        assert allowed <= below, f"{module} may only import what stands above its line"
        below.add(module)


@every_module
def test_imports_go_downward(module):
    tree = ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))
    assert own_imports(tree) <= LAYERS[module]


@every_module
def test_modules_are_short(module):
    lines = (PACKAGE / f"{module}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (MAX_DECLARATIONS if "/lesson_" in module else MAX_LINES)


def test_importing_the_package_is_cheap():
    code = "import sys, tfm_lib; print({'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\nfrom torch import nn", set()),
        ("from tfm_lib.masks import causal_mask", {"masks"}),
        ("from tfm_lib import masks, vocab", {"masks", "vocab"}),
        ("import tfm_lib.models.gpt as gpt", {"models/gpt"}),
        ("def f():\n    from tfm_lib.cache import CachedStep", {"cache"}),
    ],
)
def test_imports_are_found(source, found):
    assert own_imports(ast.parse(source)) == found


def own_imports(tree):
    """The library's modules that a module imports, anywhere in it; relative imports are refused."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = node.module == "tfm_lib"
            names |= {f"tfm_lib.{a.name}" for a in node.names} if whole else {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    prefix = "tfm_lib."
    return {name.removeprefix(prefix).replace(".", "/") for name in names if prefix in name}
