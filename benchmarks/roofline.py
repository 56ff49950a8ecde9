"""What a device has to do at least: operations and bytes of nodes and graphs."""

from jitinfer.graph.op import Kind


def model_flops(graph):
    """Of products, convolutions and attention alone, as imported: what any implementation of the model computes."""
    nodes = [node for node in graph.nodes if node.op.kind is Kind.CONTRACTION]
    return sum(flops(node) for node in nodes)


def flops(node):
    return node.op.flops(node.input_types(), [value.type for value in node.outputs], **node.attributes)


def moved_bytes(node):
    """That a kernel for `node` has to read and write at least: of what it broadcasts or looks up, each element once."""
    if node.op.kind in (Kind.VIEW, Kind.CREATION):
        return 0
    written = sum(value.type.nbytes for value in node.outputs)
    read = [
        min(value.type.nbytes, node.input_type(position).nbytes)
        for position, value in enumerate(node.inputs)
        if value is not None
    ]
    if node.op.name == "gather":
        read[0] = min(read[0], written)
    return sum(read) + written


def roofline(graph, most_flops, bandwidth):
    """Seconds, if each node in turn were as fast as the device computes it or moves its operands, whichever is slower.

    graph: after the passes; Williams et al., 2009, node by node.
    """
    return sum(max(flops(node) / most_flops, moved_bytes(node) / bandwidth) for node in graph.nodes)
