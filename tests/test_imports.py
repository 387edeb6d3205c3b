import ast
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from itertools import chain
from pathlib import Path

import fast_electra

# Imports point down this list only (CONTRIBUTING.md shows it).
LAYERS = [
    *("cli", "api", "studies", "pipelines", "report", "evaluation", "publishing", "diagnosis", "training", "runs"),
    *("config", "objectives", "corruption", "models", "data", "plugins", "parts", "terminal"),
    *("distributed", "stopping", "errors"),
]
PACKAGE = Path(fast_electra.__file__).parent


def test_imports_point_down_the_layers_only():
    for file in PACKAGE.rglob("*.py"):
        layer = file.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if layer not in LAYERS:
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            if names == ["fast_electra"]:  # from fast_electra import training
                names = [f"fast_electra.{alias.name}" for alias in node.names]
            assert not (isinstance(node, ast.ImportFrom) and node.level), f"{file.name} imports by a relative name"
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                parts = name.split(".")
                if parts[0] == "fast_electra" and len(parts) > 1 and parts[1] in LAYERS:
                    assert LAYERS.index(parts[1]) >= LAYERS.index(layer), f"{file.name} imports {name}"


def test_importing_the_configuration_and_its_parts_imports_no_torch():
    check = "import sys, fast_electra.config; assert not {'torch', 'transformers', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)


def test_nothing_is_unpickled_and_no_remote_code_is_run():
    for file in PACKAGE.rglob("*.py"):
        text = file.read_text()
        for forbidden in (
            "torch.load(",
            "import pickle",
            "pickle.load",
            "trust_remote_code=True",
            "yaml.load(",
            "eval(",
        ):
            found = [line for line in text.splitlines() if forbidden in line.replace(".eval(", "")]
            assert not found, f"{file.name}: {found[0]}"


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_library_that_is_imported_is_declared():
    """Of the package itself or of an extra: what other libraries happen to bring may be gone tomorrow."""
    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    requirements = [*project["dependencies"], *chain(*project["optional-dependencies"].values())]
    declared = {normal(re.split(r"[\s<>=!~;\[(]", requirement)[0]) for requirement in requirements}
    providers = metadata.packages_distributions()
    # Python 3.14 has Zstandard itself, in `compression`.
    known = {*sys.stdlib_module_names, "compression", "fast_electra"}
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "import_module"):
                names += [word.value for word in node.args[:1] if isinstance(word, ast.Constant)]
            for module in {name.split(".")[0] for name in names} - known:
                given_by = set(map(normal, providers.get(module, [module])))
                assert given_by & declared, f"{file.name} imports {module}, which pyproject.toml does not declare"
