"""Whole models on a GPU beside torch, from saved graphs. Needs torch there, and no Paddle.

    python benchmarks/gpu_models.py FOLDER [--models dit,sd3] [--peers eager,default,max-autotune] [--limit 240]
        [--output output/gpu] [--dtype bfloat16] [--tune fast] [--lanes 2] [--one-lane-too]
        [--cache FOLDER] [--profile]

FOLDER holds graphs as text (`NAME.graph.gz`), as `benchmarks/save_graphs.py` writes them. Each model is compiled in a
process of its own (`compile_model.py`, nothing cached unless --cache names what is), and started warm and measured in
another (`measure_model.py`); both are stopped after --limit seconds. Results are added to models.json, and drawn in
models.png, as they come.

What the table says of a model:
- ms: one forward, a replay of one CUDA graph, the second-level cache emptied before; the median, with the tenth and the
  ninetieth percentile in models.json. The peers are recorded as CUDA graphs too, and take turns with ours.
- TFLOP/s: of the model's products and attention as imported, the same number for all.
- roofline: the time of the ideal device over ours. Each node of our graph takes the longer of its operations at the
  speed of a large product by cuBLAS, and its bytes at that of a large copy, both measured in the same process.
- memory: weights, arena and results on the device.
- cold, warm: seconds of passes, tuning and lowering with an empty cache, and of passes, the model from the cache, and
  its loading, weights being in memory. Imports are not counted.
- error: relative to float32 by torch, and in brackets that of torch op by op in the same dtype.
"""

import argparse
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).parent
MODELS = "dit,dit_512,sd3,sd3_1024,large_dit"
HEADS = ("model", "ours", "peer", "which", "ratio", "TFLOP/s", "roofline", "memory", "cold", "warm", "error")
SHORT = {"torch default": "torch.compile", "torch max-autotune": "max-autotune", "jitinfer on one lane": "on one lane"}
COLUMNS = "{:14} {:>8} {:>8} {:26} {:>6} {:>8} {:>9} {:>10} {:>7} {:>7}  {}"


def finished(command, limit):
    """Whether a process ends well in time; what it prints goes where ours does, its results into files."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(command, env=environment, start_new_session=True, stdout=sys.stderr)
    try:
        return process.wait(limit) == 0
    except subprocess.TimeoutExpired:
        return False
    finally:
        with contextlib.suppress(ProcessLookupError):  # and those that compile for it
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def measured(given, name, folder):
    """Whatever could be found out about a model."""
    graph, cold, warm = given.folder / f"{name}.graph.gz", folder / "cold.json", folder / "warm.json"
    cache = given.cache or folder / "cache"
    common = ["--dtype", given.dtype, "--tune", given.tune, "--lanes", str(given.lanes)]
    command = [sys.executable, HERE / "compile_model.py", graph, cache, cold, *common]
    problem = None if finished(command, given.limit) else "not compiled"
    if problem is None:
        command = [sys.executable, HERE / "measure_model.py", graph, cache, warm, *common, "--peers", given.peers]
        flags = [flag for flag, on in (("--profile", given.profile), ("--one-lane-too", given.one_lane_too)) if on]
        done = finished([*command, *flags], given.limit)
        problem = None if done else "stopped or failed"
    found = {"model": name, "tune": given.tune, "lanes": given.lanes, "problem": problem}
    for path, entry in ((cold, "cold_seconds"), (warm, None)):
        if path.exists():
            read = json.loads(path.read_text())
            found.update(read if entry is None else {entry: read})
    return found


def row(found):
    """The cells of a line of the table."""
    if "ms" not in found:
        return [found["model"], *[""] * 9, found["problem"]]
    ours = found["ms"]["jitinfer"]["median"]
    peers = {name: times["median"] for name, times in found["ms"].items() if not name.startswith("jitinfer")}
    best = min(peers, key=peers.get, default=None)
    return [
        found["model"],
        f"{ours:.3f}",
        "" if best is None else f"{peers[best]:.3f}",
        "" if best is None else best,
        "" if best is None else f"{peers[best] / ours:.2f}",
        f"{found['gflop'] / ours:.0f}",
        f"{found['roofline_ms'] / ours:.2f}",
        f"{found['memory_gb']:.2f} GB",
        f"{sum(found['cold_seconds'].values()):.1f} s",
        f"{sum(found['warm_seconds'].values()):.2f} s",
        f"{found['error']:.4f} ({found['error_of_torch']:.4f}) {found['problem'] or ''}",
    ]


def print_details(found):
    for name, times in found.get("ms", {}).items():
        beside = found.get(name)
        text = (
            "" if beside is None else f", compiled in {beside['compile_seconds']:.0f} s, {beside['memory_gb']:.2f} GB"
        )
        print(f"  {name}: {times['median']:.3f} ms ({times['low']:.3f} to {times['high']:.3f}){text}")
    if "same_bits_on_one_lane" in found:
        arenas = f"arena {found['arena_mb']:.1f} MB, {found['arena_mb_on_one_lane']:.1f} MB on one lane"
        same = "the same bits" if found["same_bits_on_one_lane"] else "other bits"
        other = found["nodes_with_other_kernels_on_one_lane"]
        print(f"  {found['steps_beside']} of {found['steps']} steps on lane 1; {arenas}")
        print(f"  on one lane, {other} nodes with other kernels, {same}")
    if "profile" in found:
        print(found["profile"])


def draw(every, path):
    """Milliseconds of each model as bars, side by side, each model on a scale of its own; the roofline as a line."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(every), figsize=(2.6 * len(every), 3.2), layout="constrained", squeeze=False)
    for axis, found in zip(axes[0], every, strict=True):
        names = sorted(found["ms"], key=lambda name: name == "jitinfer")
        values = [found["ms"][name] for name in names]
        medians = [value["median"] for value in values]
        spread = [[v["median"] - v["low"] for v in values], [v["high"] - v["median"] for v in values]]
        colours = ["#2f6fde" if name == "jitinfer" else "#9aa5b1" for name in names]
        axis.bar(range(len(names)), medians, 0.7, yerr=spread, color=colours)
        for position, value in enumerate(medians):
            axis.text(position, value, f"{value:.2f}", ha="center", va="bottom", fontsize=8)
        axis.axhline(found["roofline_ms"], color="#c0392b", linewidth=1, linestyle="--")
        axis.set_xticks(range(len(names)), [SHORT.get(name, name) for name in names], rotation=40, ha="right")
        axis.margins(y=0.12)  # for the numbers
        axis.set_title(f"{found['model']}, ms", fontsize=10)
    figure.suptitle(f"{every[0]['device']}; dashed: roofline", fontsize=9)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--models", default=MODELS)
    parser.add_argument("--peers", default="eager,default,max-autotune")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for each of a model's two processes")
    parser.add_argument("--output", type=pathlib.Path, default=HERE.parent / "output" / "gpu")
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--tune", default="fast")
    parser.add_argument("--lanes", type=int, choices=(1, 2), default=2, help="2: branches side by side where it pays")
    parser.add_argument("--one-lane-too", action="store_true", help="in turn with the same kernels one after the other")
    parser.add_argument("--cache", type=pathlib.Path, help="used and filled; cold starts are then not cold")
    parser.add_argument("--profile", action="store_true", help="where the time goes")
    given = parser.parse_args()
    given.output.mkdir(parents=True, exist_ok=True)
    path = given.output / "models.json"
    known = json.loads(path.read_text()) if path.exists() else []
    every = {found["model"]: found for found in known}
    print(COLUMNS.format(*HEADS), flush=True)
    for name in given.models.split(","):
        with tempfile.TemporaryDirectory() as folder:
            every[name] = measured(given, name, pathlib.Path(folder))
        print(COLUMNS.format(*row(every[name])))
        print_details(every[name])
        sys.stdout.flush()
        path.write_text(json.dumps(list(every.values()), indent=1))
        drawn = [found for found in every.values() if "ms" in found]
        if drawn:
            draw(drawn, given.output / "models.png")
    print(COLUMNS.format(*HEADS))
    for found in every.values():
        print(COLUMNS.format(*row(found)))


if __name__ == "__main__":
    main()
