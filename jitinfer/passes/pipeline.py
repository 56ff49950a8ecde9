"""Passes in order, and what each of them did."""

from __future__ import annotations

import dataclasses
import inspect
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitinfer.errors import GraphError, JitinferError, PassError
from jitinfer.graph.graph import Graph
from jitinfer.graph.op import Kind
from jitinfer.passes.difference import difference
from jitinfer.passes.rewrite import is_graph_pass, pass_named

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitinfer.passes.rewrite import GraphPass

DEFAULT = (
    "eliminate_dead_nodes",
    "fold_constants",
    "merge_duplicates",
    "simplify",
    "form_silu",
    "form_gelu",
    "form_layer_norm",
    "form_rms_norm",
    "form_timestep_embedding",
    "flip_timestep_embedding",
    "fuse_norm_scale",
    "fuse_norm_bias",
    "fuse_adaptive_layer_norm",
    "fuse_gated_residual_norm",
    "fuse_group_norm_silu",
    "fuse_rotary_half",
    "fuse_rotary_halves",
    "fuse_rotary_pairs",
    "fuse_rotary_partial",
    "form_masked_scores",
    "fuse_attention",
    "fuse_conv_padding",
    "fuse_conv_scale",
    "fuse_conv_bias",
    "fuse_conv_residual",
    "fuse_conv_activation",
    "conv_as_linear",
    "form_linear",
    "fuse_linear_bias",
    "fuse_swiglu",
    "fuse_linear_activation",
    "fold_constants",
    "simplify",
    "form_boolean_mask",
    "form_causal_attention",
    "share_heads",
    "merge_duplicates",
    "group_linear",
    "merge_linear",
    "merge_concat",
    "fuse_linear_gate",
    "fuse_linear_residual",
    "contract_axes",
    "weight_prologue",
    "absorb_views",
    "group_pointwise",
    "absorb_stores",
    "merge_duplicates",
    "eliminate_dead_nodes",
)


def default() -> list[str]:
    """The names of the passes that run on every graph, in order; a list of the caller's own."""
    return list(DEFAULT)


def table() -> str:
    """The default passes as a Markdown table, each once, in the order of their first turn."""
    rows = ["| pass | what it does |", "| --- | --- |"]
    for name in dict.fromkeys(DEFAULT):
        said = (inspect.getdoc(type(pass_named(name))) or "").partition("\n\n")[0]
        said = " ".join(said.split()).replace("|", "\\|")
        rows.append(f"| `{name}` | {f'`{said}`' if '->' in said else said} |")
    return "\n".join(rows) + "\n"


def chosen(named: Sequence[str] = (), deleted: Sequence[str] = ()) -> list[str]:
    """The passes that run on a graph, of the options `passes` and `delete_pass_lists`.

    The options hold names of Paddle's passes too, which are left out here. Where `named` has a graph pass, its graph
    passes are the list, in its order, and "default" stands for the default list; else the default list it is.
    """
    own = [name for name in named if name == "default" or is_graph_pass(name)]
    if not any(name != "default" for name in own):
        own = ["default"]
    expanded = [each for name in own for each in (DEFAULT if name == "default" else (name,))]
    return [name for name in expanded if name not in deleted]


@dataclass(frozen=True)
class Step:
    """What one pass did: places changed, seconds, and the graphs before and after."""

    name: str
    changes: int
    seconds: float
    before: Graph
    after: Graph

    def diff(self) -> str:
        """The nodes that went ("-") and came ("+"), place by place, with the model's lines; "" if nothing changed."""
        return "\n".join(map(str, difference(self.before, self.after)))

    def __str__(self) -> str:
        nodes = f"{len(self.before.nodes)} -> {len(self.after.nodes)} nodes"
        return f"{self.name:28} {self.changes:6} changes  {nodes:20} {1e3 * self.seconds:8.1f} ms"


@dataclass(frozen=True)
class Report:
    """What a pipeline did, pass by pass."""

    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join(map(str, self.steps))


def run_passes(graph: Graph, names: Sequence[str] | None = None, *, check: bool = False) -> tuple[Graph, Report]:
    """The graph after the passes `names` (None: `default()`), and what each did.

    check: check the graph after each pass; an error then names the pass that broke it.
    Raises PassError for an unknown name, before any pass has run, and for a pass that raises anything.
    """
    passes = [pass_named(name) for name in (DEFAULT if names is None else names)]
    steps = []
    for each in passes:
        started = time.perf_counter()
        after, changes = _run(each, graph)
        if check:
            try:
                after.check()
            except GraphError as error:
                raise PassError(f"{each.name} broke the graph: {error}") from error
        steps.append(Step(each.name, changes, time.perf_counter() - started, graph, after))
        graph = after
    return graph, Report(tuple(steps))


def _run(each: GraphPass, graph: Graph) -> tuple[Graph, int]:
    try:
        return _run_inside_too(each, graph)
    except JitinferError:
        raise
    except Exception as error:
        raise PassError(f"the pass {each.name} fails: {type(error).__name__}: {error}") from error


def _run_inside_too(each: GraphPass, graph: Graph) -> tuple[Graph, int]:
    """The pass on a graph and on the branches and bodies of its control flow."""
    after, changes = each.run(graph)
    nodes = []
    for node in after.nodes:
        if node.op.kind is Kind.CONTROL:
            inside = {
                name: _run_inside_too(each, value)
                for name, value in node.attributes.items()
                if isinstance(value, Graph)
            }
            count = sum(done for _, done in inside.values())
            if count:
                changes += count
                attributes = {**node.attributes, **{name: better for name, (better, _) in inside.items()}}
                node = dataclasses.replace(node, attributes=attributes)
        nodes.append(node)
    return (after if tuple(nodes) == after.nodes else dataclasses.replace(after, nodes=tuple(nodes))), changes
