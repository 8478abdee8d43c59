"""Small changes to a module's source that should make a test fail: found and applied by its syntax tree.

A mutation is a place and a new text for it. What an error says is left alone, as are annotations, docstrings,
asserts that only tell a type checker what is known, the `strict` of a `zip`, which is an assert as well, and the number
of a named limit, which is a choice.
"""

from __future__ import annotations

import ast
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mutation:
    """One change: its number within the module, its line, what stands there, and what stands there afterwards.

    `statement` is the line of the statement that it is in; 0 if that runs on import, outside all functions.
    """

    number: int
    line: int
    statement: int
    kind: str
    before: str
    after: str


Change = tuple[str, ast.AST | None]
"""The kind of a change, and the node that replaces another one; None to take a statement away."""

COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
}

OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}


def mutations(source: str) -> list[Mutation]:
    """List all changes to a module."""
    tree = ast.parse(source)
    statements = _statements(tree)
    return [
        Mutation(number, _line(node), statements[node], kind, _text(node), "" if new is None else _text(new))
        for number, (node, kind, new) in enumerate(_changes(tree))
    ]


def _statements(tree: ast.AST) -> dict[ast.AST, int]:
    """Return for each node the line of the innermost statement of a function that it is in; 0 outside functions."""
    found: dict[ast.AST, int] = {}

    def visit(node: ast.AST, line: int, is_inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            found[child] = child.lineno if is_inside and isinstance(child, ast.stmt) else line
            visit(child, found[child], is_inside or isinstance(child, ast.FunctionDef))

    visit(tree, 0, False)
    return found


MARKS = "marks_of_mutants"
"""Name, among those that Python itself offers, of the marks of all modules: of each the lines of what has run."""


def mark_statements(source: str, module: str) -> str:
    """Put a mark in front of each statement of each function of a module."""
    tree = ast.parse(source)
    statements = _statements(tree)
    for node in list(statements):
        for name in ("body", "orelse", "finalbody"):
            block = getattr(node, name, None)
            if isinstance(block, list) and block and statements[block[0]]:
                setattr(node, name, [each for line in block for each in (*_mark(line, statements[line]), line)])
    first = next(at for at, statement in enumerate(tree.body) if not _is_first(statement))
    marks = f"_marks = __import__('builtins').__dict__.setdefault({MARKS!r}, {{}}).setdefault({module!r}, {{}})"
    tree.body[first:first] = ast.parse(marks).body
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


def _mark(statement: ast.stmt, line: int) -> list[ast.stmt]:
    return [] if _is_first(statement) else ast.parse(f"_marks[{line}] = 1").body


def _is_first(statement: ast.stmt) -> bool:
    """Tell whether a statement must stay in front: a docstring, or an import from the future."""
    if isinstance(statement, ast.ImportFrom):
        return statement.module == "__future__"
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def mutate(source: str, number: int) -> str:
    """Make one of them."""
    tree = ast.parse(source)
    node, _, new = list(_changes(tree))[number]
    _Replacing(node, new).visit(tree)
    return ast.unparse(ast.fix_missing_locations(tree)) + "\n"


class _Replacing(ast.NodeTransformer):
    def __init__(self, old: ast.AST, new: ast.AST | None) -> None:
        self.old = old
        self.new = ast.Pass() if new is None else new

    def visit(self, node: ast.AST) -> Any:
        return self.new if node is self.old else self.generic_visit(node)


def _line(node: Any) -> int:
    return int(node.iter.lineno if isinstance(node, ast.comprehension) else node.lineno)


def _text(node: ast.AST) -> str:
    return " ".join(ast.unparse(node).split())[:150]


def _changes(tree: ast.AST) -> Iterator[tuple[Any, str, ast.AST | None]]:
    for node in _walk(tree):
        for kind, new in _changes_of(node):
            yield node, kind, new


def _walk(node: ast.AST) -> Iterator[ast.AST]:
    """Visit what decides something, outer nodes first."""
    yield node
    for name, value in ast.iter_fields(node):
        if name in ("annotation", "returns", "decorator_list", "type_params"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_words(child):
                yield from _walk(child)


def _is_words(node: ast.AST) -> bool:
    """Tell whether a node only says something: to a reader, to a type checker, or in an error."""
    match node:
        case ast.Expr(value=ast.Constant(value=str())) | ast.JoinedStr() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Call(func=ast.Name(id=name)) | ast.Call(func=ast.Attribute(attr=name)):
            return name.endswith("Error") or name in ("debug", "info", "warning", "cast", "TypeVar")
        case ast.Assert(test=test):
            return "is not None" in ast.unparse(test) or "isinstance" in ast.unparse(test)
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) | ast.keyword(arg="strict"):
            return True
        case (
            ast.AnnAssign(value=None) | ast.AnnAssign(annotation=ast.Name("Final"), value=ast.Constant() | ast.BinOp())
        ):
            return True
    return False


def _changes_of(node: ast.AST) -> Iterator[Change]:
    for make in (_of_tests, _of_expressions, _of_constants, _of_statements, _of_returns):
        yield from make(node)


def _of_tests(node: ast.AST) -> Iterator[Change]:
    """A condition that is turned round, joined otherwise, or lacks its `not`."""
    match node:
        case ast.Compare(left, [operator], [right]):
            for other in COMPARISONS[type(operator)]:
                yield "comparison", ast.Compare(left, [other()], [right])
        case ast.BoolOp(operator, values):
            yield "and/or", ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            for at in range(len(values)):
                rest = [value for other, value in enumerate(values) if other != at]
                yield "part of a condition", rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
        case ast.UnaryOp(ast.Not(), operand):
            yield "not", operand
        case ast.If(test, body, orelse) if not _is_turned_itself(test):
            yield "turned if", ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.IfExp(test, body, orelse) if not _is_turned_itself(test):
            yield "turned if", ast.IfExp(test, orelse, body)
        case ast.comprehension(target, iterator, tests, is_async) if tests:
            yield "filter", ast.comprehension(target, iterator, [], is_async)


def _is_turned_itself(test: ast.AST) -> bool:
    """Tell whether another change turns a condition round already."""
    match test:
        case (
            ast.UnaryOp(ast.Not())
            | ast.Compare(ops=[ast.Eq() | ast.NotEq() | ast.In() | ast.NotIn() | ast.Is() | ast.IsNot()])
        ):
            return True
    return False


def _of_expressions(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.BinOp(left, operator, right) if type(operator) in OPERATORS and not isinstance(left, ast.Constant):
            yield "operator", ast.BinOp(left, OPERATORS[type(operator)](), right)
        case ast.Call(func=ast.Name(id="sorted"), args=[first, *_]):
            yield "order", ast.Call(ast.Name("list", ast.Load()), [first], [])
        case ast.Call(func=ast.Name(id="min" | "max" as name), args=args, keywords=keywords):
            yield "min/max", ast.Call(ast.Name("max" if name == "min" else "min", ast.Load()), args, keywords)
        case ast.Call(func=ast.Name(id="any" | "all" as name), args=args):
            yield "any/all", ast.Call(ast.Name("all" if name == "any" else "any", ast.Load()), args, [])
        case ast.Starred(ctx=ast.Load()):
            yield "part of a list", ast.Starred(ast.Tuple([], ast.Load()), ast.Load())


def _of_constants(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Constant(value=bool() as value):
            yield "constant", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield "constant", ast.Constant(value + 1)
            if value:
                yield "constant", ast.Constant(value - 1)


def _of_statements(node: ast.AST) -> Iterator[Change]:
    """A statement that is not there."""
    match node:
        case ast.Expr(value=ast.Call() | ast.Yield() | ast.YieldFrom()) | ast.AugAssign() | ast.Assert() | ast.Raise():
            yield "statement", None
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement", None
        case ast.Continue():
            yield "statement", None
        case ast.Break():
            yield "statement", ast.Continue()


def _of_returns(node: ast.AST) -> Iterator[Change]:
    match node:
        case ast.Return(value=ast.Constant(value=None)) | ast.Return(value=None):
            return
        case ast.Return(value=ast.Constant(value=bool())):
            return  # the constant itself is turned
        case ast.Return(value=value) if _is_turned_itself(value):
            return
        case ast.Return(value=ast.Compare() | ast.BoolOp() as value):
            yield "return", ast.Return(ast.UnaryOp(ast.Not(), copy.deepcopy(value)))
        case ast.Return():
            yield "return", ast.Return(ast.Constant(None))
