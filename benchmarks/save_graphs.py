"""Graphs of large models as files, to be measured where Paddle is not installed.

    .venv/bin/python benchmarks/save_graphs.py FOLDER [--models dit,dit_single,dit_512,sd3,sd3_1024,large_dit]
        [--layers N]

Writes FOLDER/NAME.graph.gz, the graph as imported, before any pass; with --layers, NAME_N.graph.gz of so many blocks.
No weights: these are made where the graph is measured.
"""

import argparse
import gzip
import importlib.util
import pathlib

import graph_passes

from jitinfer.frontend.importing import import_program


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--models", default=",".join(graph_passes.MODELS))
    parser.add_argument("--layers", type=int)
    given = parser.parse_args()
    specification = importlib.util.spec_from_file_location("models", graph_passes.FIXTURES)
    specification.loader.exec_module(importlib.util.module_from_spec(specification))  # its shims for ppdiffusers
    given.folder.mkdir(parents=True, exist_ok=True)
    sizes = {} if given.layers is None else {"layers": given.layers}
    for name in given.models.split(","):
        found = graph_passes.traced(name, **sizes)
        graph = import_program(found.program, origins=found.origins)
        path = given.folder / f"{name}{'' if given.layers is None else f'_{given.layers}'}.graph.gz"
        path.write_bytes(gzip.compress(str(graph).encode(), mtime=0))
        print(path, len(graph.nodes), "nodes")


if __name__ == "__main__":
    main()
