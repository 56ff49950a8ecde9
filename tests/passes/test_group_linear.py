"""Products that differ in their weights alone, and what leads to them, as one product of groups."""

import pytest

from jitinfer.graph import Builder, ops
from jitinfer.passes import run_passes
from jitinfer.testing import PassTest


def embedders(count, *, bias=True, activation="silu", labels=True, shared_table=False, widths=None, turned=False):
    """As in DiT: each block embeds timestep and label by weights of its own, and projects the sum to its modulation."""
    builder = Builder()
    steps, classes = builder.input("steps", (3, 6)), builder.input("classes", (3,), "int64")

    def weight(name, *shape):
        return builder.parameter(name, shape)

    def linear(x, name, rows, columns):
        b = weight(name + "_bias", columns) if bias else None
        w = weight(name, columns, rows) if turned else weight(name, rows, columns)
        return ops.linear(x, w, b, transpose_weight=turned)

    label = ops.gather(weight("table", 5, 8), classes, axis=0) if shared_table else None
    results = []
    for i in range(count):
        first = linear(steps, f"first_{i}", 6, 4)
        hidden = linear(getattr(ops, activation)(first), f"second_{i}", 4, 8)
        if labels:
            hidden = hidden + (label or ops.gather(weight(f"table_{i}", 5, 8), classes, axis=0))
        hidden = ops.silu(hidden)
        results.append(linear(hidden, f"modulation_{i}", 8, (widths or [10] * count)[i]))
    return builder, results


class TestGroupLinear(PassTest):
    passes = ("group_linear", "simplify", "eliminate_dead_nodes")

    @pytest.mark.parametrize("count", [2, 3, 5])
    @pytest.mark.parametrize("bias", [False, True])
    @pytest.mark.parametrize("turned", [False, True])
    def test_one_product_for_all_modulations(self, count, bias, turned):
        builder, results = embedders(count, bias=bias, turned=turned)
        after = self.becomes(builder.build(*results), self.counts(count, bias))
        grouped = [node for node in after.nodes if node.op.name == "linear" and len(node.inputs[1].shape) == 3]
        assert [node.inputs[1].shape[0] for node in grouped] == [count, count]

    @staticmethod
    def counts(count, bias):
        """The first product is one of all columns; a weight of the others is reshaped before it is stacked."""
        stacked = 2 * count * (1 + bias)
        return {
            "concat": 4 + 3 * bias,
            "linear": 3,
            "gather": 1,
            "add": 1,
            "silu": 2,
            "transpose": 2,
            "slice": count,
            "reshape": 2 + stacked + count,
        }

    def test_without_labels(self):
        builder, results = embedders(2, labels=False)
        after = self.becomes(
            builder.build(*results),
            {"concat": 6, "linear": 3, "silu": 2, "transpose": 1, "slice": 2, "reshape": 1 + 8 + 2},
        )
        assert not [node for node in after.nodes if node.op.name == "add"]

    def test_a_shared_operand_is_not_copied(self):
        """One table for all: what comes from it is the same value in all groups."""
        builder, results = embedders(3, shared_table=True)
        after = self.becomes(
            builder.build(*results),
            {
                "concat": 6,
                "linear": 3,
                "gather": 1,
                "add": 1,
                "silu": 2,
                "transpose": 1,
                "slice": 3,
                "reshape": 1 + 12 + 3,
            },
        )
        (gather,) = (node for node in after.nodes if node.op.name == "gather")
        assert gather.inputs[0].name == "table"

    def test_one_of_another_width_reads_its_group(self):
        """The last layer of a DiT takes the first block's embedding, for a projection of its own."""
        builder, results = embedders(3, widths=[10, 10, 6])
        after, _ = self.run_passes(builder.build(*results))
        widths = sorted(node.output.shape[-1] for node in after.nodes if node.op.name == "linear")
        assert widths == [6, 8, 10, 12]
        groups = {node.output.shape[-1]: node.output.shape for node in after.nodes if node.op.name == "linear"}
        assert groups[8] == (3, 3, 8)
        assert groups[10] == (2, 3, 10)
        assert groups[6] == (3, 6)

    def test_several_products_of_each_operand(self):
        """The j-th products of all operands go together."""
        builder = Builder()
        x = builder.input("x", (3, 6))
        results = []
        for i in range(2):
            hidden = ops.silu(ops.linear(x, builder.parameter(f"a{i}", (6, 4))))
            results += [ops.linear(hidden, builder.parameter(f"{name}{i}", (4, 4))) for name in "bc"]
        after, _ = self.run_passes(builder.build(*results))
        shapes = [node.output.shape for node in after.nodes if node.op.name == "linear"]
        assert sorted(shapes) == [(2, 3, 4), (2, 3, 4), (3, 8)]

    def test_a_chain_of_groups(self):
        builder = Builder()
        x = builder.input("x", (2, 3, 6))
        results = []
        for i in range(3):
            hidden = x
            for j in range(3):
                hidden = ops.linear(hidden, builder.parameter(f"w{i}{j}", (6, 6)), activation="gelu")
            results.append(hidden * builder.parameter(f"s{i}", (6,)))
        after, _ = self.run_passes(builder.build(*results))
        assert sorted(node.output.shape for node in after.nodes if node.op.name == "linear") == [
            (2, 3, 18),
            (3, 2, 3, 6),
            (3, 2, 3, 6),
        ]

    def test_weights_are_stacked_with_axes_for_broadcasting(self):
        builder = Builder()
        x = builder.input("x", (2, 3, 6))
        results = []
        for i in range(2):
            scaled = ops.linear(x, builder.parameter(f"v{i}", (6, 6))) * builder.parameter(f"s{i}", (6,))
            results.append(ops.linear(scaled, builder.parameter(f"w{i}", (6, 4))))
        after, _ = self.run_passes(builder.build(*results))
        (product,) = (node for node in after.nodes if node.op.name == "multiply")
        assert product.output.shape == (2, 2, 3, 6)

    def run_passes(self, graph):
        after = run_passes(graph, self.passes, check=True)
        self.means_the_same(after[0], graph)
        return after

    def test_what_differs_otherwise_stays_apart(self):
        builder = Builder()
        x, y = builder.input("x", (3, 6)), builder.input("y", (3, 6))
        w = [builder.parameter(f"w{i}", (6, 6)) for i in range(8)]
        self.stays(
            builder.build(
                ops.linear(ops.silu(ops.linear(x, w[0])), w[1]),
                ops.linear(ops.silu(ops.linear(y, w[2])), w[3]),  # of another input
                ops.linear(ops.relu(ops.linear(x, w[4])), w[5]),  # through another activation
                ops.linear(ops.layer_norm(ops.linear(x, w[6])), w[7]),  # through what cannot be grouped
            )
        )

    def test_products_in_a_row_stay_apart(self):
        """Equal shapes are not enough: one product takes the other's result."""
        builder = Builder()
        x = builder.input("x", (3, 6))
        for i in range(3):
            x = ops.silu(ops.linear(x, builder.parameter(f"w{i}", (6, 6))))
        self.stays(builder.build(x))

    def test_weights_that_are_inputs_stay_apart(self):
        builder = Builder()
        x = builder.input("x", (3, 6))
        w = [builder.input(f"w{i}", (6, 6)) for i in range(4)]
        self.stays(builder.build(*(ops.linear(ops.silu(ops.linear(x, w[i])), w[2 + i]) for i in range(2))))


@pytest.mark.parametrize("shared", [0, 1])
def test_a_weight_that_two_products_share_is_not_copied(shared):
    builder = Builder()
    x = builder.input("x", (3, 6))
    weights = [
        [builder.parameter(f"w{level}", (6, 6))] * 2
        if level == shared
        else [builder.parameter(f"w{level}{i}", (6, 6)) for i in range(2)]
        for level in range(2)
    ]
    results = [ops.linear(ops.silu(ops.linear(x, first)), second) for first, second in zip(*weights, strict=True)]
    graph = builder.build(*results)
    assert run_passes(graph, ["group_linear"])[0].hash == graph.hash


def test_the_common_operand_is_left_to_merge_linear():
    builder = Builder()
    x = builder.input("x", (3, 6))
    graph = builder.build(*(ops.linear(x, builder.parameter(f"w{i}", (6, 6))) for i in range(2)))
    assert run_passes(graph, ["group_linear"])[0].hash == graph.hash
