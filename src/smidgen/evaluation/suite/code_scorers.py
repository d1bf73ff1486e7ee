"""Scorer of Python code: judged by its syntax tree, and run only where that is asked for."""

from __future__ import annotations

import ast
import builtins
import re
import warnings
from collections.abc import Mapping
from typing import Any

from smidgen.evaluation.suite.sandbox import run_checks
from smidgen.evaluation.suite.verdict import RIGHT, Reply, Verdict, check, wrong

_FENCE = re.compile(r"```(?:python|py)?[ \t]*\n(.*?)(?:\n```|\Z)", re.DOTALL)
LONGEST_CODE = 4000
"""Characters; the parser's depth and time are bounded with it."""


def python(reply: Reply, expect: Mapping[str, Any]) -> Verdict:
    """Code that `ast.parse` takes and whose tree has what `tree` asks for.

    `opened`: what the prompt of the base form has written of it. `tree`: `function` (a name) with `arguments` (names),
    a body that uses every argument, returns a value, goes on no further and uses no name that is nothing; or `assigns`
    (a name) and `value` (an expression it must equal, as a tree). `checks`: expressions that must be true when the
    code runs, judged only with `run_code`.
    """
    code = code_of(reply, expect.get("opened", ""))
    if len(code) > LONGEST_CODE:
        return wrong("is too long")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(code)
    except SyntaxError as error:
        return wrong(f"is no Python: {error.msg}, line {error.lineno}")
    except (ValueError, MemoryError, RecursionError):
        return wrong("is no Python")
    verdict = _judge_tree(tree, expect["tree"])
    if verdict.right and reply.run_code and expect.get("checks"):
        return run_checks(code, expect["checks"])
    return verdict


def code_of(reply: Reply, opened: str) -> str:
    """The code of an answer: in a chat what stands in its first fence, else all; in the base form after `opened`."""
    if reply.form == "base":
        return opened + reply.text.rstrip()
    fence = _FENCE.search(reply.text)
    return fence.group(1) if fence else reply.text.strip()


def _judge_tree(tree: ast.Module, wanted: Mapping[str, Any]) -> Verdict:
    if "function" in wanted:
        return _judge_function(tree, wanted["function"], wanted["arguments"])
    return _judge_assignment(tree, wanted["assigns"], wanted["value"])


def _judge_function(tree: ast.Module, name: str, arguments: list[str]) -> Verdict:
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == name]
    if not functions:
        return wrong(f"defines no function {name}")
    function = functions[0]
    if [argument.arg for argument in function.args.args] != arguments:
        return wrong(f"{name} does not take ({', '.join(arguments)})")
    nodes = list(ast.walk(function))
    if not any(isinstance(node, ast.Return) and node.value is not None for node in nodes):
        return wrong(f"{name} returns nothing")
    if any(isinstance(statement, ast.Return) for statement in function.body[:-1]):
        return wrong(f"{name} goes on after it returned")
    names = [node for node in nodes if isinstance(node, ast.Name)]
    read = {node.id for node in names if isinstance(node.ctx, ast.Load)}
    missing = [argument for argument in arguments if argument not in read]
    if missing:
        return wrong(f"{name} does not use {', '.join(missing)}")
    known = {node.id for node in names if not isinstance(node.ctx, ast.Load)} | set(dir(builtins)) | {name}
    known |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    known |= {
        alias.asname or alias.name.split(".")[0]
        for node in ast.walk(tree)
        for alias in getattr(node, "names", ())
        if isinstance(alias, ast.alias)
    }
    known |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    unknown = sorted(read - known)
    return check(not unknown, f"{name} uses {', '.join(unknown)}, which is nothing")


def _judge_assignment(tree: ast.Module, name: str, value: str) -> Verdict:
    wanted = ast.dump(ast.parse(value, mode="eval").body)
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1:
            target = node.targets[0]
            if isinstance(target, ast.Name) and target.id == name:
                return RIGHT if ast.dump(node.value) == wanted else wrong(f"{name} is not set to {value}")
    return wrong(f"does not set {name}")
