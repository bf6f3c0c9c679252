"""run.py stays small, so that a user can read it in one sitting."""

import ast

from command import ROOT

SOURCE = (ROOT / "run.py").read_text()
FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def test_run_py_is_small():
    assert len(SOURCE.encode()) <= 30_000
    assert len(SOURCE.splitlines()) <= 690


def test_no_function_is_longer_than_40_lines():
    functions = [node for node in ast.walk(ast.parse(SOURCE)) if isinstance(node, FUNCTIONS)]
    assert functions
    lengths = {node.name: node.end_lineno - node.lineno + 1 for node in functions}
    assert {name: length for name, length in lengths.items() if length > 40} == {}
