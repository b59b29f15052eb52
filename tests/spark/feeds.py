"""Which tests of tests/reconcile run a feed, as their source has it: they, or what they call or are given, run a world.

That is `world.run`, called or handed on, or `run` of reconcile.run. What has a name is followed through functions,
classes, fixtures and constants of the module, and of those of tests/ that it imports from.
"""

import ast
from functools import cache
from pathlib import Path

HOME = Path(__file__).parents[2]
MODULES = tuple(f"tests.reconcile.{path.stem}" for path in sorted((HOME / "tests/reconcile").glob("test_*.py")))
_RUN = "reconcile.run"


def feed_tests(module: str) -> tuple[str, ...]:
    """Their names, in the order of the file."""
    tests = (name for name in _defined(module) if name.startswith("test_"))
    return tuple(name for name in tests if _runs(module, name, set()))


def _runs(module: str, name: str, seen: set[tuple[str, str]]) -> bool:
    """Whether what has this name in the module runs a world. `seen` are those that were looked at."""
    module = _imported(module).get(name, module)
    if module == _RUN:
        return name == "run"
    # a world that is made is not yet run
    if name == "World" or (module, name) in seen or name not in _defined(module):
        return False
    seen.add((module, name))
    nodes = list(ast.walk(_defined(module)[name]))
    named = {node.id for node in nodes if isinstance(node, ast.Name)}
    named -= {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}
    named |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    return any(map(_is_run, nodes)) or any(_runs(module, other, seen) for other in sorted(named))


def _is_run(node: ast.AST) -> bool:
    if not isinstance(node, ast.Attribute):
        return False
    return node.attr == "run" and not (isinstance(node.value, ast.Name) and node.value.id == "subprocess")


@cache
def _tree(module: str) -> ast.Module:
    return ast.parse((HOME / module.replace(".", "/")).with_suffix(".py").read_text("utf-8"))


@cache
def _defined(module: str) -> dict[str, ast.stmt]:
    found: dict[str, ast.stmt] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign):
            found |= {target.id: node for target in node.targets if isinstance(target, ast.Name)}
    return found


@cache
def _imported(module: str) -> dict[str, str]:
    """From which module a name comes, of reconcile.run and those of tests/."""
    found: dict[str, str] = {}
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith((_RUN, "tests.")):
            found |= {alias.name: node.module or "" for alias in node.names}
    return found
