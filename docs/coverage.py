"""Writes docs/coverage.md: the graph's ops, Paddle's operators that become them, and architectures as graphs.

`python docs/coverage.py` writes the tables of ops and operators anew and keeps the measured one;
`python docs/coverage.py --measure` also imports every architecture of the tests, and takes some minutes.
"""

import argparse
import dis
import inspect
import itertools
import pathlib
import sys
import types

from jitinfer.frontend.converters import CONVERTERS
from jitinfer.frontend.converters.complex_numbers import EACH_PART, ON_COMPLEX
from jitinfer.graph import table

ROOT = pathlib.Path(__file__).parents[1]
PAGE = ROOT / "docs" / "coverage.md"
MEASURED = "## Architectures"
MANY = 12
"""Operators listed for one op."""
NAMING = {"getattr", "apply", "op_named", "normalised", "_added"}
"""What a converter looks an op up by, if it does not write it as `ops.name`."""


def first_line(documented):
    return (inspect.getdoc(documented) or "").split("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def named_ops(operator, function, seen=None):
    """The graph ops that a converter, or a function of its package that it calls, names. Not those of `+`, `*`, ..."""
    seen = set() if seen is None else seen
    if function in seen:
        return set()
    seen.add(function)
    variables = inspect.getclosurevars(function)
    found = {value for value in variables.nonlocals.values() if isinstance(value, str)}
    waiting = [function.__code__]
    while waiting:
        code = waiting.pop()
        loads = [each for each in dis.get_instructions(code) if each.opname.startswith("LOAD")]
        found.update(after.argval for before, after in itertools.pairwise(loads) if before.argval == "ops")
        if NAMING.intersection(code.co_names):
            found.update(each for each in code.co_consts if isinstance(each, str))
            found.update([operator] if "removeprefix" in code.co_names else [])
        waiting.extend(each for each in code.co_consts if isinstance(each, types.CodeType))
    called = [*variables.globals.values(), *variables.nonlocals.values()]
    called += [each for value in called if isinstance(value, dict) for each in value.values()]
    for each in called:
        if isinstance(each, types.FunctionType) and each.__module__.startswith("jitinfer.frontend.converters"):
            found |= named_ops(operator, each, seen)
    return {each for each in found if isinstance(each, str)} & table().keys()


def converters():
    """By Paddle's operators, without their dialect."""
    both = {**ON_COMPLEX, **CONVERTERS}
    return {name.removeprefix("pd_op."): both[name] for name in sorted(both)}


def operations():
    """The table of the graph's ops."""
    sources = {}
    for operator, function in converters().items():
        for name in named_ops(operator, function):
            sources.setdefault(name, []).append(operator)
    rows = ["| op | kind | meaning | Paddle's operators |", "| --- | --- | --- | --- |"]
    for name, op in sorted(table().items()):
        given, meaning = sources.get(name, []), first_line(type(op)).replace("`function`", f"`{name}`")
        listed = ", ".join(given[:MANY]) + (f" and {len(given) - MANY} more" if len(given) > MANY else "")
        rows.append(f"| `{signature(op)}` | {op.kind.value} | {meaning} | {listed} |")
    return "\n".join(rows)


def signature(op):
    """Operands and attributes without their types."""
    given = inspect.signature(op.infer)
    bare = [each.replace(annotation=inspect.Parameter.empty) for each in given.parameters.values()]
    return op.name + str(given.replace(parameters=bare, return_annotation=inspect.Signature.empty))


def operators():
    """The table of Paddle's operators that have a converter."""
    complex_too = {*EACH_PART.split(), *(name.removeprefix("pd_op.") for name in ON_COMPLEX)}
    rows = ["| operator | converter | complex numbers | notes |", "| --- | --- | --- | --- |"]
    for operator, function in converters().items():
        module = function.__module__.rpartition(".")[2]
        rows.append(f"| {operator} | {module} | {'yes' if operator in complex_too else ''} | {first_line(function)} |")
    return "\n".join(rows)


def described():
    return f"""# Coverage

Made by `python docs/coverage.py`; with `--measure`, the last table too.

## The graph's ops

An operand with `None` may be absent. What is written after `*` are attributes. The last column names the converters
that write the op by its name: many write sums and products by Python's `+` and `*`, and ops without any come from
passes.

{operations()}

## Paddle's operators

{len(converters())} have a converter. An operator without one, or in a form that its converter does not know, is a node
that only Paddle can run (`paddle` above), and so is what reads its results where their dims depend on data.

{operators()}

"""


def measured():
    sys.path.insert(0, str(ROOT / "tests"))
    from architectures import DIFFUSION, LANGUAGE, PIPELINES, VISION
    from graphs import imported
    from models import build

    from jitinfer.passes import run_passes

    rows = [
        MEASURED,
        "",
        "In the sizes of the tests, with random weights. The error is the largest one of a result, before or after the"
        " passes, as a fraction of the largest value, against dynamic Paddle in float32.",
        "",
        "| architecture | operators | nodes | after the passes | opaque | largest error |",
        "| --- | --: | --: | --: | --- | --: |",
    ]
    for name, builder in {**PIPELINES, **DIFFUSION, **LANGUAGE, **VISION}.items():
        case = build(builder)
        found = imported(case.function, case.tensors, case.arguments, case.layer)
        after, _ = run_passes(found.graph, check=True)
        counts = f"{found.operations} | {len(found.graph.nodes)} | {len(after.nodes)}"
        error = "" if found.opaque else f"{max(map(found.error_of, (found.graph, after))):.1e}"
        rows.append(f"| {name} | {counts} | {', '.join(sorted(found.opaque)) or 'none'} | {error} |")
        print(rows[-1], flush=True)
    return "\n".join(rows) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="import every architecture of the tests")
    arguments = parser.parse_args()
    kept = PAGE.read_text().partition(MEASURED)[2] if PAGE.exists() else "\n"
    PAGE.write_text(described() + (measured() if arguments.measure else MEASURED + kept))


if __name__ == "__main__":
    main()
