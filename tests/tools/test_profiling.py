"""Profiles over a driver in host memory: what is summed, shown and written, and what is refused."""

import json
import re
import shlex
import sys
import types
from dataclasses import replace

import numpy
import pytest
from compiled_stack import ROWS, WIDTH, stack
from fake_driver import installed
from gpu import needs_gpu
from sessions import LABELS, MODEL, MODEL_BYTES, session_of

import jitinfer
from jitinfer.errors import ArgumentError
from jitinfer.graph import Origin
from jitinfer.runtime import Cost, model_file
from jitinfer.runtime.samples import sample
from jitinfer.tools.cli import main
from jitinfer.tools.profile_report import Profile, ProfiledStep


@pytest.fixture
def cuda(monkeypatch):
    with installed(monkeypatch) as fake:
        yield fake


@pytest.fixture
def found(cuda):
    return jitinfer.profile(session_of(MODEL), rounds=3)


@pytest.fixture
def file(cuda, tmp_path):
    model_file.save(MODEL, tmp_path / "the model", [sample(kind) for kind in MODEL.weights])
    return tmp_path / "the model"


def test_each_step_with_its_time_and_origin(found):
    assert [step.operation for step in found.steps] == LABELS
    assert [step.microseconds for step in found.steps] == pytest.approx(MODEL_BYTES)
    assert found.steps[1].origin == Origin("model.py:7", "/Net_0/Block_0/Linear_0")
    assert [step.kernel for step in found.steps] == ["copy"] * 4 + ["fill"] * 2
    assert found.total == pytest.approx(sum(MODEL_BYTES)) == pytest.approx(found.whole)


def test_blocks_of_a_kind_are_one_row(found):
    rows = {row.names: row for row in found.rows()}
    assert set(rows) == {("/Net", "gather"), ("/Net/Block/Linear_0", "linear"), ("/Net/Block", "norm")}
    linear = rows["/Net/Block/Linear_0", "linear"]
    assert (linear.count, linear.flops, linear.nbytes) == (2, 960, 160)
    assert linear.microseconds == pytest.approx(96)
    assert linear.share == pytest.approx(96 / 248)
    assert linear.teraflops == pytest.approx(960 / 96e-6 / 1e12)
    assert linear.gigabytes == pytest.approx(160 / 96e-6 / 1e9)


def test_what_several_steps_compute_together_counts_once(found):
    rows = {row.names: row for row in found.rows("operation")}
    norm = rows[("norm",)]
    assert (norm.count, norm.flops, norm.nbytes) == (3, 20, 120)
    assert [row.count for row in found.rows("operation")] == [2, 3, 1]
    parts = found.rows("step")[-2:]
    assert [(row.count, row.flops, row.gigabytes) for row in parts] == [(1, None, None)] * 2
    assert [row.names[0] for row in found.rows("step")] == [str(i) for i in range(6)]


def test_a_cost_that_is_not_known_makes_no_rate(found):
    steps = (replace(found.steps[1], cost=None), *found.steps[2:])
    (linear,) = [row for row in replace(found, steps=steps).rows() if row.names[1] == "linear"]
    assert (linear.flops, linear.teraflops, linear.gigabytes) == (None, None, None)


def test_layers_keep_their_numbers_where_they_hold_no_others():
    paths = ["/Net_0", "/Net_0/Block_0/Linear_0", "/Net_0/Block_12/Linear_1", "/Net_0/Block_12", "", "/Head_1"]
    steps = tuple(ProfiledStep(i, "x", "x", Origin("", path), None, 1.0, 1.0, None) for i, path in enumerate(paths))
    layers = Profile("fake", steps, 6.0, 0.0, 1).layers
    assert [layers[path] for path in paths] == [
        "/Net",
        "/Net/Block/Linear_0",
        "/Net/Block/Linear_1",
        "/Net/Block",
        "",
        "/Head_1",
    ]


def test_no_rows_by_anything_else(found):
    with pytest.raises(ArgumentError, match="by 'colour', but by layer, operation, kernel, step"):
        found.rows("colour")


def test_the_table_says_where_without_the_way_there(found):
    steps = (replace(found.steps[0], origin=Origin("/home/somebody/net/model.py:3")), *found.steps[1:])
    line = replace(found, steps=steps).table("step").splitlines()[3]
    assert line.split()[:6] == ["0", "gather", "copy", "-", "net/model.py:3", "1"]


def test_the_table_has_the_longest_first_and_counts_the_rest(found):
    lines = found.table("step").splitlines()
    assert lines[0].startswith("fake: 6 steps, 248.0 us in sequence; one replay 248.0 us (3 rounds; events added 2.00")
    assert lines[2].split()[:5] == ["step", "operation", "kernel", "layer", "place"]
    names = ["1", "linear", "copy", "/Net_0/Block_0/Linear_0", "model.py:7"]
    assert lines[4].split() == [*names, "1", "64.0", "25.8%", "64.0", "0.0", "0.0"]
    cut = found.table("layer", 1).splitlines()
    assert cut[3].split()[:3] == ["/Net/Block/Linear_0", "linear", "2"]
    assert cut[4].split() == ["2", "more", "4", "152.0", "61.3%"]
    assert str(found) == found.table() == repr(found)


def test_a_notebook_shows_a_table_and_nothing_of_ours_is_markup(found):
    steps = (replace(found.steps[0], operation="a<b>&"), *found.steps[1:])
    shown = replace(found, steps=steps)._repr_html_()
    assert "<td>a&lt;b&gt;&amp;</td>" in shown
    assert shown.count("<tr>") == 4


def test_the_trace_is_one_track_of_steps_end_to_end(found, tmp_path):
    found.save_trace(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert {event["ph"] for event in trace["traceEvents"]} == {"M", "X"}
    assert {(event["pid"], event["tid"]) for event in trace["traceEvents"]} == {(0, 0)}
    assert [event["name"] for event in events] == LABELS
    assert [event["dur"] for event in events] == pytest.approx(MODEL_BYTES)
    ends = numpy.cumsum([event["dur"] for event in events])
    assert [event["ts"] for event in events] == pytest.approx([0, *ends[:-1]])
    assert events[1]["args"] == {
        "step": 1,
        "kernel": "copy",
        "repeated_us": pytest.approx(64),
        "node": 1,
        "flops": 640,
        "bytes": 96,
        "layer": "/Net_0/Block_0/Linear_0",
        "place": "model.py:7",
    }
    assert trace["otherData"]["replay_us"] == pytest.approx(248)


def test_the_grid_of_a_kernel_is_in_its_event():
    step = ProfiledStep(0, "matmul", "kernel", Origin(), (3, 2, 1), 5.0, 4.0, Cost(0, 1, 2))
    (event,) = [each for each in Profile("d", (step,), 5.0, 0.0, 1).trace()["traceEvents"] if each["ph"] == "X"]
    assert event["args"]["grid"] == [3, 2, 1]


def test_a_loaded_program_runs_on_what_it_is_given(cuda):
    session = session_of(MODEL)
    x = numpy.arange(16, dtype=numpy.float32)
    jitinfer.profile(session, x, rounds=1)
    assert numpy.array_equal(session.run(session.inputs)[0][:16], x)
    with pytest.raises(ArgumentError, match="no argument 'x'"):
        jitinfer.profile(session, x=x)
    with pytest.raises(ArgumentError, match="takes 1 inputs"):
        jitinfer.profile(session, x, x)


@pytest.mark.parametrize("program", [len, object(), 3])
def test_what_is_no_program(program):
    with pytest.raises(ArgumentError, match=r"neither compiled by jitinfer\.inference nor loaded"):
        jitinfer.profile(program)


def test_a_function_of_another_engine_has_no_kernels():
    import paddle

    layer = jitinfer.inference(paddle.nn.Linear(4, 4), engine="reference")
    with pytest.raises(ArgumentError, match=r"forward runs .*; only programs of engine='cuda'"):
        jitinfer.profile(layer, paddle.rand([2, 4]))


def test_a_compiled_function_is_called_and_its_session_profiled(cuda):
    """Whatever engine it is that has sessions."""
    import paddle

    class Executable:
        history, description = None, "sessions"

        def __init__(self, executable):
            self.executable, self.asked = executable, []

        def begin(self, tensors):
            return None

        def run(self, tensors):
            return self.executable.run(tensors)

        def session_of(self, tensors):
            self.asked.append([tensor.shape for tensor in tensors])
            return session_of(MODEL)

    layer = jitinfer.inference(paddle.nn.Linear(4, 4), engine="reference")
    x = paddle.rand([2, 4])
    specialization, _ = layer.forward.specialization_of(x)
    specialization.executable = Executable(specialization.executable)
    assert [step.operation for step in jitinfer.profile(layer, x, rounds=1).steps] == LABELS
    assert jitinfer.profile(layer.forward, input=x).rounds == 30
    assert specialization.executable.asked == [[[2, 4]]] * 2
    assert specialization.calls == 3


def test_a_function_with_a_parameter_of_our_options_name():
    @jitinfer.inference(engine="reference")
    def repeated(x, rounds):
        return x * rounds

    with pytest.raises(ArgumentError, match="rounds is an option here"):
        jitinfer.profile(repeated, 1, rounds=3)


def test_the_specialisation_that_ran_with_the_tensors_it_was_given():
    import paddle

    @jitinfer.inference(engine="reference")
    def scaled(x, factor, y):
        return (x + y) * factor

    x, y, wide = paddle.rand([2]), paddle.rand([2]), paddle.rand([3])
    ran, tensors = scaled.specialization_of(x, 2.0, y=y)
    assert [each is other for each, other in zip(tensors, (x, y), strict=True)] == [True, True]
    other, _ = scaled.specialization_of(wide, 2.0, wide)
    again, _ = scaled.specialization_of(x, 2.0, y)
    assert again is ran is not other
    assert ran.calls == 2


def test_the_command_prints_the_table_and_what_to_run_next(file, capsys):
    assert main(["profile", str(file), "--rounds", "2", "--by", "operation", "--top", "2"]) == 0
    printed = capsys.readouterr().out
    assert "1 more" in printed
    assert printed.splitlines()[2].split()[:2] == ["operation", "count"]
    (line,) = [each for each in printed.splitlines() if each.startswith("nsys")]
    words = shlex.split(line)
    assert words[words.index("jitinfer") :] == ["jitinfer", "profile", str(file), "--nvtx"]
    assert "ncu" not in printed  # nothing of it is a kernel


def test_the_commands_work_as_they_are_printed(cuda, file, capsys):
    """Up to the tools that they start."""
    from jitinfer.tools.profile_command import further

    steps = (
        ProfiledStep(0, "matmul", "kernel.a", Origin(), (1, 1, 1), 5.0, 5.0, None),
        ProfiledStep(1, "matmul", "kernel_b", Origin(), (1, 1, 1), 9.0, 5.0, None),
        ProfiledStep(2, "matmul", "cuBLASLt", Origin(), None, 99.0, 5.0, None),
    )
    lines = [each for each in further(file, Profile("d", steps, 5.0, 0.0, 1)).splitlines() if each[0] != "#"]
    timeline, counters = map(shlex.split, lines)
    assert timeline[:2] == ["nsys", "profile"]
    assert counters[0] == "ncu"
    pattern = counters[counters.index("--kernel-name") + 1].removeprefix("regex:")
    assert [bool(re.search(pattern, name)) for name in ("kernel.a", "kernel_b", "kernelxa", "other")] == [1, 1, 0, 0]
    for words in (timeline, counters):
        before = cuda.now
        assert main(words[words.index("jitinfer") + 1 :]) == 0
        assert cuda.now > before


def test_once_runs_every_step_once_and_measures_nothing(file, cuda, capsys):
    assert main(["profile", str(file), "--once"]) == 0
    assert capsys.readouterr().out == "ran 6 steps once, one by one\n"
    assert cuda.launches == 1  # the one that puts the inputs in their places


def test_ranges_around_the_steps(file, capsys, monkeypatch):
    seen = []
    nvtx = types.SimpleNamespace(
        push_range=lambda message, domain: seen.append((message, domain)), pop_range=lambda domain: seen.append(domain)
    )
    monkeypatch.setitem(sys.modules, "nvtx", nvtx)
    assert main(["profile", str(file), "--nvtx", "--rounds", "2"]) == 0
    assert capsys.readouterr().out == "ran 6 steps 2 times, one by one in NVTX ranges\n"
    assert seen[:4] == [
        ("0 gather /Net_0", "jitinfer"),
        "jitinfer",
        ("1 linear /Net_0/Block_0/Linear_0", "jitinfer"),
        "jitinfer",
    ]
    assert len(seen) == 2 * 2 * 6


def test_without_the_package_there_are_no_ranges_but_a_word(file, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "nvtx", None)
    assert main(["profile", str(file), "--nvtx", "--once"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "ran 6 steps once, one by one without ranges\n"
    assert "pip install nvtx" in captured.err


def test_json_and_a_trace(file, capsys, tmp_path):
    assert main(["profile", str(file), "--json", "--trace", str(tmp_path / "t.json")]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["total"] == pytest.approx(248)
    assert document["rounds"] == 30
    assert document["steps"][2]["origin"] == {"place": "model.py:7", "layer": "/Net_0/Block_1/Linear_0"}
    assert len(json.loads((tmp_path / "t.json").read_text())["traceEvents"]) == 2 + 6


def test_what_cannot_be_done_is_said_in_one_line(file, capsys, tmp_path):
    (tmp_path / "other").write_bytes(b"no program")
    for argv, message in (
        ([str(tmp_path / "none")], "No such file"),
        ([str(tmp_path / "other")], "save the model again"),
        ([str(file), "--device", "7"], "no CUDA device 7"),
        ([str(file), "--once", "--json"], "measure nothing"),
    ):
        assert main(["profile", *argv]) == 2
        captured = capsys.readouterr()
        assert message in captured.err
        assert captured.err.startswith("jitinfer: ")
        assert captured.err.count("\n") == 1
        assert captured.out == ""


@pytest.mark.parametrize("argv", [["--rounds", "0"], ["--top", "-3"], ["--by", "colour"], []])
def test_a_command_line_that_makes_no_sense(argv, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(["profile", *(["x"] if argv else []), *argv])
    assert exit_info.value.code == 2
    assert "usage: jitinfer profile" in capsys.readouterr().err


@needs_gpu
def test_a_saved_program_on_a_device(tmp_path, capsys):
    """All blocks in one row, with the FLOPs of their products; the kernels by name in the command for ncu."""
    model = stack(6)
    model_file.save(model, tmp_path / "model", [sample(kind) for kind in model.weights])
    assert main(["profile", str(tmp_path / "model"), "--rounds", "10", "--trace", str(tmp_path / "trace.json")]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^/Stack/Block/Linear_0 +(matmul|linear) +6 ", printed, re.MULTILINE), printed
    kernels = {kernel.entry for kernel in model.plan.kernels}
    (line,) = [each for each in printed.splitlines() if each.startswith("ncu")]
    words = shlex.split(line)
    pattern = words[words.index("--kernel-name") + 1].removeprefix("regex:")
    assert any(re.search(pattern, name) for name in kernels)
    events = [e for e in json.loads((tmp_path / "trace.json").read_text())["traceEvents"] if e["ph"] == "X"]
    assert len(events) == len(model.plan.steps)
    flops = {event["args"]["node"]: event["args"]["flops"] for event in events}
    assert sum(flops.values()) >= 6 * 2 * ROWS * WIDTH * WIDTH
    assert main(["profile", str(tmp_path / "model"), "--once"]) == 0


@needs_gpu
def test_rates_are_below_what_a_device_can_do_and_above_what_none_would(tmp_path):
    """Float32 products of 4 GFLOP: between 1 and 1000 TFLOP/s on anything of compute capability 8 or later."""
    session = session_of(stack(3))
    found = jitinfer.profile(session, rounds=10)
    (row,) = [row for row in found.rows() if row.names[0] == "/Stack/Block/Linear_0"]
    assert 1 < row.teraflops < 1000
    assert found.total == pytest.approx(found.whole, rel=0.15)
    measured = jitinfer.benchmark(session.enqueue, session.inputs, calls=50)
    assert 1e6 * measured.median >= 0.9 * found.whole
    session.close()
