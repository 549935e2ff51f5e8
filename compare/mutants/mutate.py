"""The mutants of a program: each has one operation changed, by one of `operators.KINDS`.

A change with which the program does not run is no mutant. Of mutants with the same operations only
the first is kept.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from compare.mutants.operators import (
    KINDS,
    PASS_THROUGH,
    GraphEdit,
    Substitution,
    is_operation,
    same_shape_and_dtype,
)
from compare.proof.explanations import code_at
from compare.proof.interpreter import Cache, evaluate
from compare.proof.program import (
    PICKS,
    Program,
    constant_text,
    downstream,
    operation,
    skip_copies,
    source_line,
)


@dataclass(frozen=True)
class Mutant:
    """A program with one operation changed, and where that operation stands in the code."""

    program: Program
    unchanged: Mapping[fx.Node, fx.Node]  # its nodes with unchanged values -> the original nodes
    kind: str
    description: str  # "mul: replaced by div"
    node: fx.Node  # the operation, in the original program
    line: tuple[str, int] | None  # file and line of the code that called the operation
    affects: tuple[str, ...]  # the named outputs computed from it

    @property
    def text(self) -> str:
        """The line of code itself, empty if it is unknown."""
        return code_at(self.line)


def mutants(program: Program, inputs: Mapping[str, Tensor]) -> Iterator[Mutant]:
    """Yield every distinct mutant of `program` that runs at `inputs`."""
    _label(program)
    cache: Cache = {}
    evaluate(program, inputs, cache=cache)
    floats = {node: value.floats for node, value in cache.items()}
    keys = {_key(program.graph)}
    for node in program.graph.nodes:
        if not is_operation(node):
            continue
        descendants = downstream(node)
        affects = tuple(name for name, at in program.outputs.items() if at in descendants)
        for kind, operator in KINDS.items():
            for change, substitute in operator(node, floats):
                edit = GraphEdit(program, node)
                mutated = _mutated(program, edit, substitute, inputs, cache)
                if mutated is None or (key := _key(mutated.graph)) in keys:
                    continue
                keys.add(key)
                description = f"{operation(node)}: {change}"
                unchanged = edit.unchanged()
                yield Mutant(
                    mutated, unchanged, kind, description, node, source_line(node), affects
                )


def without_copies(program: Program) -> Program:
    """Return the program without operations that return a tensor in its own shape and dtype."""
    edit = GraphEdit(program, next(iter(program.graph.nodes)))
    for node in list(edit.graph.nodes):
        if operation(node) in PASS_THROUGH - PICKS and node.all_input_nodes:
            source = node.all_input_nodes[0]
            if same_shape_and_dtype(node, source):
                edit.replace(source, of=node)
    return _program(program, edit)


def _label(program: Program) -> None:
    """Label each named node for messages, with the name of the input or of the output."""
    for node, name in program.placeholders().items():
        node.meta["label"] = name
    for name, node in program.outputs.items():
        returned = f"the returned {name}" if name in program.inputs else name
        node.meta.setdefault("label", returned)


def _mutated(
    program: Program,
    edit: GraphEdit,
    substitute: Substitution,
    inputs: Mapping[str, Tensor],
    cache: Cache,
) -> Program | None:
    """Return the program with one operation changed, None if it does not run.

    `cache` holds the values of the original program's nodes at `inputs`.
    """
    try:
        substitute(edit)
        mutated = _program(program, edit)
        values = {copy: cache[node] for copy, node in edit.unchanged().items()}
        outputs = evaluate(mutated, inputs, cache=values)
    except (RuntimeError, IndexError, TypeError, NotImplementedError):  # torch refuses the shapes
        return None
    for node, value in values.items():
        node.meta["val"] = value.floats  # the mutation may have changed shapes
    return mutated if all(isinstance(value, Tensor) for value in outputs.values()) else None


def _program(program: Program, edit: GraphEdit) -> Program:
    edit.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    (output,) = (n for n in edit.graph.nodes if n.op == "output")
    roots = [skip_copies(n) for n in output.args[0]]
    outputs = dict(zip(program.outputs, roots, strict=True))
    return Program(edit.graph, program.inputs, outputs, program.may_round_narrower)


def _key(graph: fx.Graph) -> str:
    """Return a text that is the same for two programs with the same operations."""
    number = {node: k for k, node in enumerate(graph.nodes)}
    rows = []
    for node in graph.nodes:
        args = fx.node.map_arg((node.args, node.kwargs), lambda n: f"%{number[n]}")
        target = constant_text(node) if node.op == "get_attr" else node.target
        rows.append(f"{node.op} {'' if node.op == 'placeholder' else target} {args}")
    return "\n".join(rows)
