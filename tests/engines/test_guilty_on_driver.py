"""From the call to the verdict: the CUDA engine over a driver in host memory, with kernels of copies and fills."""

import paddle
import pytest
from copies import Moves
from fake_driver import installed
from reference import assert_same

import jitinfer
from jitinfer.engines import graph_search
from jitinfer.kernels import catalogue
from jitinfer.kernels.family import Candidate
from jitinfer.runtime import Copy, Fill, Pointer


class HalfOfIt(Moves):
    """Wrong on purpose."""

    name = "half"

    def launches(self, node, config, target):
        nbytes = node.output.type.nbytes
        rest = Fill(Pointer("output_0", nbytes // 2), nbytes - nbytes // 2, 0)
        return Candidate((Copy(Pointer("input_0"), Pointer("output_0"), nbytes // 2), rest))


@pytest.fixture
def cuda(monkeypatch):
    monkeypatch.setattr(catalogue, "BUILT_IN", (HalfOfIt(), Moves()))
    with installed(monkeypatch) as fake:
        yield fake


def function(x):
    return paddle.reshape(x, [-1])


def compiled(folder, **options):
    return jitinfer.inference(function, engine="cuda", tune="off", save_model_dir=str(folder), **options)


def test_a_wrong_kernel_is_dropped_and_the_verdict_kept(cuda, tmp_path, warnings_of, monkeypatch):
    x = paddle.randn([4, 6])
    notes = []
    for _ in range(2):
        fast = compiled(tmp_path, fallback="error")
        assert_same(fast(x), function(x))
        assert_same(fast(2 * x), function(2 * x))
        assert fast.specializations[0].description == "CUDA, float32, fake, 1 steps"
        notes.append(fast.specializations[0].notes)
        monkeypatch.setattr(graph_search.GraphSearch, "search", lambda self: pytest.fail("it searches again"))
    assert notes[0] == notes[1]
    (note,) = notes[0]
    assert note.startswith("the kernel half for ")
    assert "is dropped: with it, its result differs by" in note
    assert warnings_of() == [f"function: {note}"]
    assert note in fast.explain()


def test_bisect_names_the_kernel(cuda, tmp_path):
    report = jitinfer.bisect(compiled(tmp_path), paddle.randn([4, 6]))
    assert [blame.name.partition(" for ")[0] for blame in report.blamed] == ["the kernel half"]
    assert "right without them: CUDA, float32, without 1 kernel; " in str(report)


def test_dynamic_shapes_that_are_wrong_get_a_program_of_their_own(cuda, tmp_path, monkeypatch):
    """What is excluded is excluded for one form."""
    fast = compiled(tmp_path, fallback="error", dynamic_shapes={"x": {0: None}})
    for rows in (4, 2, 2):
        x = paddle.randn([rows, 6])
        assert_same(fast(x), function(x))
    assert len(fast.specializations) == 2
    assert [len(each.notes) for each in fast.specializations] == [1, 1]
