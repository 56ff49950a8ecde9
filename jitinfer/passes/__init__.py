"""Passes: a graph -> a better graph that computes the same."""

from jitinfer.passes import (
    absorb_views,
    eliminate_dead_nodes,
    fold_constants,
    form_activations,
    fuse_attention,
    fuse_conv,
    fuse_linear,
    fuse_norms,
    fuse_rotary,
    merge_duplicates,
    merge_linear,
    share_heads,
    simplify,
    weight_prologue,
)
from jitinfer.passes.pattern import Match, constant, either, maybe, optional
from jitinfer.passes.pipeline import Report, Step, chosen, default, run_passes
from jitinfer.passes.rewrite import GraphPass, RewritePass, graph_pass, is_graph_pass, pass_named, register

__all__ = [
    "GraphPass",
    "Match",
    "Report",
    "RewritePass",
    "Step",
    "absorb_views",
    "chosen",
    "constant",
    "default",
    "either",
    "eliminate_dead_nodes",
    "fold_constants",
    "form_activations",
    "fuse_attention",
    "fuse_conv",
    "fuse_linear",
    "fuse_norms",
    "fuse_rotary",
    "graph_pass",
    "is_graph_pass",
    "maybe",
    "merge_duplicates",
    "merge_linear",
    "optional",
    "pass_named",
    "register",
    "run_passes",
    "share_heads",
    "simplify",
    "weight_prologue",
]
