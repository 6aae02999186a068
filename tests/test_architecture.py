"""The library's rooms, held as data: a package imports only from rooms above it."""

import ast
import subprocess
import sys

import pytest

from tools.lessons import ROOT

LIBRARY = ROOT / "tfm_lib"
MAX_LINES = 320  # 300 is the aim
MAX_DECLARATIONS = 460  # of a lesson's exercises: mostly text
MAX_DOORS = 10  # modules in a package; more is a corridor

# Room -> the rooms that it may import from. Each line uses only rooms of the lines above it.
ROOMS = {
    "text": set(),
    "attention": set(),
    "layers": {"attention"},
    "decoding": set(),
    "training": set(),
    "models": {"attention", "layers", "decoding", "training"},
    "datasets": {"text"},
    "show": {"datasets"},
    "translation": {"text", "attention", "decoding", "training", "models", "datasets"},
    "exercises": {"show"},
    "exercises/lessons": {
        *("text", "attention", "layers", "decoding", "training", "models"),
        *("datasets", "show", "translation", "exercises"),
    },
    "commands": {"datasets", "show", "translation", "exercises"},
    "__main__": {"commands"},
}
# In a room: module -> its neighbours that it may import, again only of the lines above.
NEIGHBOURS = {
    "text": {
        "blocks": set(),
        "pairs": set(),
        "tokenizers": set(),
        "vocab": set(),
        "codec": {"vocab"},
        "batches": {"codec", "pairs"},
    },
    "attention": {
        "functions": set(),
        "masks": set(),
        "positions": set(),
        "blocked": {"functions"},
        "multi_head": {"functions"},
        "image": {"functions", "masks"},
        "recording": {"functions", "multi_head"},
        "sparse": {"blocked", "functions", "masks"},
        "relative": {"functions", "masks", "multi_head", "positions"},
    },
    "layers": {
        "blocks": set(),
        "cache": set(),
        "checks": set(),
        "recurrent": {"checks"},
    },
    "models": {
        "bert": set(),
        "dalle": set(),
        "gpt": set(),
        "seq2seq": set(),
        "sparse_transformer": set(),
        "transformer": set(),
        "transformer_xl": set(),
        "xlnet": set(),
        "hugging_face": {"bert", "gpt", "xlnet"},
    },
    "datasets": {
        "download": set(),
        "python_manual": set(),
        "shipped": set(),
        "text_files": set(),
        "dates": {"shipped"},
        "multi30k": {"download"},
        "parallel": {"shipped"},
    },
    "show": {
        "environment": set(),
        "plots": set(),
        "diagram": {"plots"},
        "table": set(),
        "claims": {"table"},
        "seeds": {"table"},
    },
    "translation": {
        "bleu": set(),
        "settings": set(),
        "workers": set(),
        "build": {"settings"},
        "checkpoints": {"settings"},
        "corpus": {"settings"},
        "loss": {"workers"},
        "translator": {"build", "checkpoints", "settings"},
        "trainer": {
            "bleu",
            "build",
            "checkpoints",
            "corpus",
            "loss",
            "settings",
            "translator",
            "workers",
        },
        "run": {"build", "checkpoints", "corpus", "settings", "trainer", "workers"},
    },
    "exercises": {
        "declare": set(),
        "running": set(),
        "watching": set(),
        "state": set(),
        "values": set(),
        "catalogue": {"declare"},
        "engine": {"declare", "running", "values", "watching"},
        "trials": {"catalogue", "declare", "engine"},
        "verbs": {"catalogue", "declare", "engine", "state"},
        "files": {"catalogue", "running", "verbs"},
    },
    "commands": {
        "check": set(),
        "data": set(),
        "exercises": set(),
        "train": set(),
        "translate": set(),
        "app": {"check", "data", "exercises", "train", "translate"},
    },
}

modules = sorted(path.relative_to(LIBRARY).as_posix()[:-3] for path in LIBRARY.rglob("*.py"))
every_module = pytest.mark.parametrize("module", modules)
packages = sorted({module.removesuffix("/__init__") for module in modules if "/__init__" in module})


def test_the_tables_are_the_library_and_point_downward():
    found = {room_of(module) for module in modules} - {"__init__"}
    assert found == set(ROOMS), "a new package or top-level module needs its line in ROOMS"
    assert_downward(ROOMS)
    for room, table in NEIGHBOURS.items():
        inside = {name for module in modules if room_of(module) == room for name in [stem(module)]}
        assert inside - {"__init__"} == set(table), f"a new module needs its line under {room}"
        assert_downward(table)


def assert_downward(table):
    below = set()
    for name, allowed in table.items():
        assert allowed <= below, f"{name} may only import what stands above its line"
        below.add(name)


@every_module
def test_imports_go_downward(module):
    tree = ast.parse((LIBRARY / f"{module}.py").read_text(encoding="utf-8"))
    room, name = room_of(module), stem(module)
    for imported in own_imports(tree):
        other = room_of(imported)
        if other == "__init__":
            continue
        if other != room:
            assert other in ROOMS[room], f"{room} may not import {other}"
        elif name != "__init__":  # a package's door opens on all of its modules
            assert room in NEIGHBOURS, f"{module} may not import {imported}"
            assert stem(imported) in NEIGHBOURS[room][name], f"{module} imports {imported}"


@every_module
def test_modules_are_short(module):
    lines = (LIBRARY / f"{module}.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= (MAX_DECLARATIONS if "/lesson_" in module else MAX_LINES)


@pytest.mark.parametrize("package", packages)
def test_a_room_says_what_is_in_it_what_it_may_use_and_where_to_begin(package):
    tree = ast.parse((LIBRARY / package / "__init__.py").read_text(encoding="utf-8"))
    text = ast.get_docstring(tree)
    assert len([line for line in text.splitlines() if line]) in (2, 3)
    assert "egin with `" in text
    doors = [module for module in modules if module.rpartition("/")[0] == package]
    doors = [door for door in doors if stem(door) != "__init__"]
    assert len(doors) <= MAX_DOORS or package == "exercises/lessons"


@pytest.mark.parametrize("package", [name for name in packages if name != "exercises/lessons"])
def test_a_package_hands_on_what_it_names(package):
    name = f"tfm_lib.{package}"
    code = f"import {name} as p; [getattr(p, each) for each in getattr(p, '__all__', ())]"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_importing_the_library_is_cheap():
    code = "import sys, tfm_lib; print({'torch', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import torch\nfrom torch import nn", set()),
        ("from tfm_lib.attention.masks import causal_mask", {"attention/masks"}),
        ("from tfm_lib import decoding, training", {"decoding", "training"}),
        ("import tfm_lib.models.gpt as gpt", {"models/gpt"}),
        ("def f():\n    from tfm_lib.layers.cache import LayerCache", {"layers/cache"}),
    ],
)
def test_imports_are_found(source, found):
    assert own_imports(ast.parse(source)) == found


def room_of(module):
    """The room of a module or of a package named whole: ``models/gpt`` -> ``models``."""
    parts = module.split("/")
    return "exercises/lessons" if parts[:2] == ["exercises", "lessons"] else parts[0]


def stem(module):
    return module.rpartition("/")[2]


def own_imports(tree):
    """The library's modules that a module imports, anywhere in it; relative imports are refused."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            whole = node.module == "tfm_lib"
            of_package = {f"tfm_lib.{alias.name}" for alias in node.names}
            names |= (of_package - {"tfm_lib.__version__"}) if whole else {node.module}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    prefix = "tfm_lib."
    return {name.removeprefix(prefix).replace(".", "/") for name in names if prefix in name}
