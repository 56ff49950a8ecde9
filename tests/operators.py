"""Programs of one of Paddle's operators, also of those for which this build has no kernel.

Such an operator is refused while a function is traced, but not when it is translated from a program of the old form,
which fills in its attributes and puts its operands in order.
"""

import os
import tempfile

import paddle
from paddle.base import core
from paddle.static import pir_io

from jitinfer.frontend.importing import import_program
from jitinfer.frontend.program import Program
from jitinfer.graph import TensorType
from jitinfer.graph.rounding import Rounding


def graph_of(operator, operands, results, attributes=None):
    """The graph of `operator`, whose inputs are the `operands`, in their order.

    Args:
        operands: arrays by the operator's names for its operands; a name that ends in "*" is that of a constant.
        results: the number of results that the graph has, and the names of all.
        attributes: those of type double as ("double", value).
    """
    paddle.enable_static()
    try:
        program, types = _translated(operator, operands, results[1], attributes or {})
        made = [op for op in program.global_block().ops if op.name() == "pd_op." + operator]
        fetched = made[0].results()[: results[0]]
        with paddle.static.program_guard(program):
            pir_io.append_pir_fetch_ops(program, [(value, f"out_{i}") for i, value in enumerate(fetched)])
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "program.json")
            core.serialize_pir_program(program, path)
            with open(path, "rb") as file:
                text = file.read()
    finally:
        paddle.disable_static()
    return import_program(Program(text, tuple(types), (), results[0], False, Rounding(1, 1, "float32"), 1))


def _translated(operator, operands, results, attributes):
    types = []
    with paddle.pir_utils.OldIrGuard():
        main = paddle.static.Program()
        with paddle.static.program_guard(main, paddle.static.Program()):
            block = main.global_block()
            names = {}
            for name, array in operands.items():
                slot = name.rstrip("*")
                if name.endswith("*"):
                    names[slot] = paddle.assign(array).name
                    continue
                names[slot] = f"in_{len(types)}"
                types.append(TensorType(array.shape, str(array.dtype)))
                paddle.static.data(names[slot], list(array.shape), str(array.dtype))
            description = block.desc.append_op()
            description.set_type(operator)
            for slot, name in names.items():
                description.set_input(slot, [name])
            for slot in results:
                block.create_var(name=slot + "_result", dtype="float32", shape=[1])
                description.set_output(slot, [slot + "_result"])
            for name, value in attributes.items():
                if isinstance(value, tuple):
                    description._set_float64_attr(name, value[1])
                else:
                    description._set_attr(name, value)
            description.check_attrs()
        return paddle.pir.translate_to_pir(main.desc), types
