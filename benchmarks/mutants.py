"""Mutants: copies of a module with one small mistake each, as people make them. `mutation.py` runs them.

What is changed: an operator (+ for -, and for or, < for <=), a number by one or by half, a bool, a condition
into its opposite, a bound of a slice or a range by one, the order of two arguments, the branches of `x if c
else y`; what is left out: a statement, a keyword argument, a minus or a `not`. What is not: text, since tests
do not compare messages word by word, and with it whatever is raised or warned of; annotations; `__repr__`;
and what only a type checker reads.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple


class Mutant(NamedTuple):
    """One change of one module.

    Attributes:
        key: names it as long as the function around it stays the same, wherever in the file that moves.
        module: the path of the file, from the root of the repository.
        function: the qualified name of the function around it; "" at the top of the module.
        line: where it is.
        first: the line in which its statement begins, by which tests that run it are found.
        kind: what sort of change.
        before, after: the source of what is changed, and what it becomes.
        number: which of the changes of this module, in the order of `changes`.
    """

    key: str
    module: str
    function: str
    line: int
    first: int
    kind: str
    before: str
    after: str
    number: int


OTHER_OPERATORS: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Mult,
    ast.Pow: ast.Mult,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitAnd,
}
OTHER_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
OTHER_NAMES = {"max": "min", "min": "max", "any": "all", "all": "any", "floor": "ceil", "ceil": "floor"}
# Calls that only say something, and what makes no difference to what is computed.
ONLY_TEXT = {"warn", "cast", "TypeVar", "print", "_refuse", "wrong_shape"}
# Functions whose first two arguments may come in any order, or whose exchange no test would miss.
COMMUTATIVE = {"max", "min", "isinstance", "getattr", "setattr", "transpose", "swapaxes", "vecdot"}

Put = Callable[[ast.AST], None]  # puts another node where one stands


def _plus(node: ast.expr, number: int) -> ast.expr:
    operator: ast.operator = ast.Add() if number > 0 else ast.Sub()
    return ast.BinOp(left=copy.deepcopy(node), op=operator, right=ast.Constant(abs(number)))


def _replaced(node: ast.AST, **fields: object) -> ast.AST:
    changed = copy.deepcopy(node)
    for name, value in fields.items():
        setattr(changed, name, value)
    return changed


def of_expression(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yields what an expression could have been by mistake: the kind of mistake, and the node."""
    match node:
        case ast.BinOp(op=operator) if type(operator) in OTHER_OPERATORS:
            yield "operator", _replaced(node, op=OTHER_OPERATORS[type(operator)]())
        case ast.BoolOp(op=operator):
            yield "and/or", _replaced(node, op=ast.Or() if isinstance(operator, ast.And) else ast.And())
        case ast.Compare(ops=operators):
            for i, operator in enumerate(operators):
                for other in OTHER_COMPARISONS[type(operator)]:
                    yield "comparison", _replaced(node, ops=[*operators[:i], other(), *operators[i + 1 :]])
        case ast.UnaryOp(op=ast.USub(), operand=operand) if not isinstance(operand, ast.Constant):
            yield "minus left out", copy.deepcopy(operand)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            yield "not left out", copy.deepcopy(operand)
        case ast.Constant(value=bool() as value):
            yield "bool", ast.Constant(not value)
        case ast.Constant(value=int() as value):
            yield "number", ast.Constant(value + 1)
            if value > 1:
                yield "number", ast.Constant(value - 1)
        case ast.Constant(value=float() as value):
            yield "number", ast.Constant(value * 0.5 if value else 1.0)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            yield "branches", ast.IfExp(test=test, body=orelse, orelse=body)
        case ast.Slice(lower=lower, upper=upper):
            for name, bound in (("lower", lower), ("upper", upper)):
                if bound is not None and not _is_number(bound):
                    yield "bound", _replaced(node, **{name: _plus(bound, 1)})
        case ast.Call(func=function, args=arguments, keywords=keywords):
            name = getattr(function, "id", getattr(function, "attr", ""))
            if name == "range" and not _is_number(arguments[-1 if len(arguments) < 3 else 1]):
                i = min(len(arguments), 2) - 1
                shorter = [*arguments[:i], _plus(arguments[i], -1), *arguments[i + 1 :]]
                yield "bound", _replaced(node, args=shorter)
            if name in OTHER_NAMES:
                other = copy.deepcopy(function)
                setattr(other, "id" if isinstance(other, ast.Name) else "attr", OTHER_NAMES[name])
                yield "function", _replaced(node, func=other)
            if len(arguments) > 1 and not any(isinstance(x, ast.Starred) for x in arguments[:2]):
                first, second = arguments[:2]
                if ast.dump(first) != ast.dump(second) and name not in COMMUTATIVE:
                    yield "arguments", _replaced(node, args=[second, first, *arguments[2:]])
            for i, keyword in enumerate(keywords):
                if keyword.arg not in (None, "strict", "key"):
                    yield "keyword left out", _replaced(node, keywords=[*keywords[:i], *keywords[i + 1 :]])


def of_statement(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Yields what a statement could have been by mistake: the kind of mistake, and the node."""
    match node:
        case ast.If(test=test) | ast.While(test=test) if not _has_an_opposite(test):
            yield "condition", _replaced(node, test=ast.UnaryOp(ast.Not(), copy.deepcopy(test)))
        case ast.AugAssign(op=operator):
            yield "statement left out", ast.Pass()
            if type(operator) in OTHER_OPERATORS:
                yield "operator", _replaced(node, op=OTHER_OPERATORS[type(operator)]())
        case ast.Expr(value=ast.Call()):
            yield "statement left out", ast.Pass()
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
            yield "statement left out", ast.Pass()
        case ast.Raise():
            yield "statement left out", ast.Pass()
        case ast.Break():
            yield "loop", ast.Continue()
        case ast.Continue():
            yield "loop", ast.Break()


def _has_an_opposite(test: ast.AST) -> bool:
    """Whether `of_expression` makes the opposite of a condition."""
    if isinstance(test, ast.Compare) and len(test.ops) == 1:
        return isinstance(test.ops[0], (ast.Eq, ast.NotEq, ast.Is, ast.IsNot, ast.In, ast.NotIn))
    return isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not)


def _is_number(node: ast.AST) -> bool:
    if isinstance(node, ast.UnaryOp):
        node = node.operand
    return isinstance(node, ast.Constant) and isinstance(node.value, int)


def _is_left_alone(node: ast.AST) -> bool:
    """Whether a node and all in it are no subject: see the head of this module."""
    if isinstance(node, ast.FunctionDef):
        return node.name in ("__repr__", "_extra_repr")
    if isinstance(node, ast.If):
        return getattr(node.test, "id", "") == "TYPE_CHECKING"
    if isinstance(node, ast.Call):
        return getattr(node.func, "id", getattr(node.func, "attr", "")) in ONLY_TEXT
    if isinstance(node, ast.Assign):
        return getattr(node.targets[0], "id", "") in ("__all__", "__slots__")
    if isinstance(node, ast.keyword):
        return node.arg == "strict"
    return isinstance(node, (ast.JoinedStr, ast.Import, ast.ImportFrom, ast.Assert))


def _children(node: ast.AST) -> Iterator[tuple[ast.AST, Put]]:
    """Yields the nodes right below one, without annotations and what is raised, and how to replace each."""
    skipped = {"annotation", "returns", "decorator_list", "exc", "cause", "bases"}
    for name, value in ast.iter_fields(node):
        if name in skipped:
            continue
        if isinstance(value, ast.AST):
            yield value, lambda other, name=name: setattr(node, name, other)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                if isinstance(item, ast.AST):
                    yield item, lambda other, value=value, i=i: value.__setitem__(i, other)


def changes(tree: ast.Module) -> Iterator[tuple[ast.AST, ast.AST, Put, str, str, int]]:
    """Yields every change of a module: the node, what it becomes, how to put it there, the kind, the function
    around it, and the line in which its statement begins.
    """
    # What to visit: a node, how to replace it, the function around it, the line of its statement.
    waiting: list[tuple[ast.AST, Put, str, int]] = [(tree, lambda other: None, "", 0)]
    while waiting:
        node, put, function, first = waiting.pop()
        if _is_left_alone(node):
            continue
        if isinstance(node, ast.stmt):
            first = node.lineno
        makers = of_statement if isinstance(node, ast.stmt) else of_expression
        for kind, other in makers(node):
            yield node, ast.copy_location(other, node), put, kind, function, first
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            function = f"{function}.{node.name}".lstrip(".")
        waiting.extend((child, way, function, first) for child, way in reversed(list(_children(node))))


def mutants(root: Path, module: str) -> list[Mutant]:
    """Returns all mutants of a module, in the order of its text."""
    tree = ast.parse((root / module).read_text(encoding="utf-8"))
    found: list[Mutant] = []
    seen: dict[str, int] = {}
    for number, (node, other, _, kind, function, first) in enumerate(changes(tree)):
        before, after = (ast.unparse(ast.fix_missing_locations(x)).split("\n")[0] for x in (node, other))
        if isinstance(other, ast.Pass):
            after = "pass"
        text = f"{module} {function}: {kind}: {before} -> {after}"
        seen[text] = seen.get(text, 0) + 1
        digest = hashlib.sha256(f"{text} #{seen[text]}".encode()).hexdigest()[:10]
        line = getattr(node, "lineno", first)
        found.append(Mutant(digest, module, function, line, first, kind, before, after, number))
    return found


def mutated(source: str, mutant: Mutant) -> ast.Module:
    """Returns the module with the change made; its lines are where they were."""
    tree = ast.parse(source)
    for number, (_, other, put, _, _, _) in enumerate(changes(tree)):
        if number == mutant.number:
            put(other)
            return ast.fix_missing_locations(tree)
    raise ValueError(f"{mutant.module} has no change number {mutant.number}: it is not what it was")
