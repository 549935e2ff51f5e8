"""The mutants of a program: each of its operations wrong in one way, one mutant at a time.

The ways are those of `KINDS` in `operators`. What no longer runs is no mutant, and of two with the
same operations only the first is one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor, fx

from compare.mutants.operators import HAND_ON, KINDS, GraphEdit, Substitution, alike, is_operation
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
    """A program with one operation wrong: what was done, and where in the code that stands."""

    program: Program
    unchanged: Mapping[fx.Node, fx.Node]  # those of its operations that give what they gave before
    kind: str
    what: str  # "mul: div in its place"
    node: fx.Node  # the operation, in the program as it was
    line: tuple[str, int] | None  # of the code that asked for it: file and line
    leads_to: tuple[str, ...]  # the named outputs that are computed from it

    @property
    def text(self) -> str:
        """The line of code itself, empty where it is not known."""
        return code_at(self.line)


def mutants(program: Program, inputs: Mapping[str, Tensor]) -> Iterator[Mutant]:
    """Yield every mutant of `program` that still runs at `inputs`, each once."""
    _label(program)
    cache: Cache = {}
    evaluate(program, inputs, cache=cache)
    floats = {node: value.floats for node, value in cache.items()}
    known = {_key(program.graph)}
    for node in program.graph.nodes:
        if not is_operation(node):
            continue
        led_to = downstream(node)
        leads_to = tuple(name for name, at in program.outputs.items() if at in led_to)
        for kind, ways in KINDS.items():
            for words, edit in ways(node, floats):
                draft = GraphEdit(program, node)
                made = _made(program, draft, edit, inputs, cache)
                if made is None or (key := _key(made.graph)) in known:
                    continue
                known.add(key)
                what = f"{operation(node)}: {words}"
                yield Mutant(made, draft.unchanged(), kind, what, node, source_line(node), leads_to)


def plain(program: Program) -> Program:
    """Return the program without operations that hand a tensor on in its own shape and dtype."""
    draft = GraphEdit(program, next(iter(program.graph.nodes)))
    for node in list(draft.graph.nodes):
        if operation(node) in HAND_ON - PICKS and node.all_input_nodes:
            source = node.all_input_nodes[0]
            if alike(node, source):
                draft.replace(source, of=node)
    return _program(program, draft)


def _label(program: Program) -> None:
    """Give each node the name under which a person knows it: an input's, a named output's."""
    for node, name in program.placeholders().items():
        node.meta["label"] = name
    for name, node in program.outputs.items():
        returned = f"the returned {name}" if name in program.inputs else name
        node.meta.setdefault("label", returned)


def _made(
    program: Program,
    draft: GraphEdit,
    edit: Substitution,
    inputs: Mapping[str, Tensor],
    known: Cache,
) -> Program | None:
    """Return the program with one operation changed, None where it does not run any more.

    `known` is what the operations of the program as it was give at `inputs`.
    """
    try:
        edit(draft)
        made = _program(program, draft)
        values = {copy: known[node] for copy, node in draft.unchanged().items()}
        found = evaluate(made, inputs, cache=values)
    except (RuntimeError, IndexError, TypeError, NotImplementedError):  # torch refuses the shapes
        return None
    for at, value in values.items():
        at.meta["val"] = value.floats  # shapes may be others now
    return made if all(isinstance(value, Tensor) for value in found.values()) else None


def _program(program: Program, draft: GraphEdit) -> Program:
    draft.graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))
    (output,) = (n for n in draft.graph.nodes if n.op == "output")
    roots = [skip_copies(n) for n in output.args[0]]
    outputs = dict(zip(program.outputs, roots, strict=True))
    return Program(draft.graph, program.inputs, outputs, program.may_round_narrower)


def _key(graph: fx.Graph) -> str:
    """Return a text that two programs share if they do the same operations."""
    number = {node: k for k, node in enumerate(graph.nodes)}
    rows = []
    for node in graph.nodes:
        args = fx.node.map_arg((node.args, node.kwargs), lambda n: f"%{number[n]}")
        target = constant_text(node) if node.op == "get_attr" else node.target
        rows.append(f"{node.op} {'' if node.op == 'placeholder' else target} {args}")
    return "\n".join(rows)
