"""Compiling without a device: for four architectures, once, side by side, and with errors that name the function."""

import errno
import os
import subprocess
import threading
import types
from dataclasses import replace

import pytest
import triton
import triton.language as tl
from row_norms import node_of
from test_attention import packed_node
from triton_functions import copy_tiles, scale_and_add, transpose_tiles

from jitinfer.cache import Cache
from jitinfer.errors import KernelError
from jitinfer.kernels import KernelLaunch, Target
from jitinfer.kernels.assembly import plan_of_node, scratch_bytes, specializations
from jitinfer.kernels.family import Candidate, TypedPointer
from jitinfer.kernels.triton import pool, worker
from jitinfer.kernels.triton.attention import BlockAttention
from jitinfer.kernels.triton.compilation import Compiler
from jitinfer.kernels.triton.frontend import kernel_key, triton_ir
from jitinfer.kernels.triton.layer_norm import RowNorm
from jitinfer.kernels.triton.pool import WorkerPool
from jitinfer.kernels.triton.specialization import bind, specialize
from jitinfer.runtime import Launch, Pointer, Scalar, TensorMap, check

ARCHITECTURES = (80, 89, 90, 100)
_OTHERS = [("adaptive_layer_norm", 89), ("rms_norm", 100)]
_OTHERS += [("gated_residual_adaptive_layer_norm_of_parts", capability) for capability in ARCHITECTURES]


def launch(count=1000, block=256, offset=0, **options):
    arguments = {name: TypedPointer(Pointer(name, offset), "float32") for name in "xwy"}
    arguments |= {"count": Scalar("i32", count), "factor": Scalar("f32", 2.0)}
    return KernelLaunch(scale_and_add, arguments, {"BLOCK": block}, (4, 1, 1), **options)


@pytest.fixture(scope="module")
def compilers():
    workers = WorkerPool(2)
    yield {capability: Compiler(Target.named(capability), workers=workers) for capability in ARCHITECTURES}
    workers.close()


@pytest.fixture
def compiler(compilers):
    return compilers[90]


@pytest.mark.parametrize(
    ("op", "capability"), [("layer_norm", 80), ("gated_residual_adaptive_layer_norm", 90), *_OTHERS]
)
def test_row_norms_for_every_architecture(op, capability, compilers):
    target = Target.named(capability)
    node = node_of(op, (2, 256, 1152), "bfloat16")
    config = RowNorm().configs(node, target)[0]
    candidate = RowNorm().launches(node, config, target)
    (kernel,) = (compilers[capability].compile(each) for each in specializations(candidate))
    assert kernel.cubin.startswith(b"\x7fELF")
    assert kernel.target == capability
    assert kernel.entry.encode() in kernel.cubin
    assert kernel.waits == bool(config["programmatic"]) == (capability >= 90)
    plan = plan_of_node(node, candidate, [kernel], capability)
    check(plan)
    assert plan.steps[0].programmatic == kernel.waits
    assert plan.steps[0].label == op


@pytest.mark.parametrize("capability", ARCHITECTURES)
def test_attention_for_every_architecture(capability, compilers):
    """Heads of 128 columns: where tensor maps fetch them, a copy moves 64."""
    target = Target.named(capability)
    node = packed_node(2, 300, 4, 128, "bfloat16", causal=True)
    config = BlockAttention().configs(node, target)[0]
    candidate = BlockAttention().launches(node, config, target)
    (kernel,) = (compilers[capability].compile(each) for each in specializations(candidate))
    plan = plan_of_node(node, candidate, [kernel], capability)
    check(plan)
    maps = [argument.box for argument in plan.steps[0].arguments if isinstance(argument, TensorMap)]
    assert maps == [tile.box for tile in kernel.tiles] == ([(1, config["n"], 1, 64)] * 2 if config["tma"] else [])
    assert config["tma"] == (capability >= 90)


def test_keys_are_walked_once():
    """What is hidden at the end is no loop of its own, which would wait for its first keys."""
    node = packed_node(1, 300, 1, 64, "bfloat16", causal=True)
    config = BlockAttention().configs(node, Target.named(90))[0]
    (source,) = specializations(BlockAttention().launches(node, config, Target.named(90)))
    assert triton_ir(source, 90).count("scf.for") == 1


def test_equal_kernels_are_compiled_once(compiler):
    before = compiler.compiled
    kernels = compiler.try_all([specialize(each) for each in (launch(), launch(1008), launch(), launch(1000, 512))])
    assert compiler.compiled - before == 3
    assert kernels[0] == kernels[2]
    assert len({kernel.digest for kernel in kernels}) == 3


def test_another_compiler_finds_them_in_the_cache(tmp_path, compiler):
    sources = [specialize(launch())]
    first = Compiler(Target.named(90), Cache(tmp_path), compiler._pool)
    made = first.try_all(sources)
    assert first.compiled == 1
    second = Compiler(Target.named(90), Cache(tmp_path), compiler._pool)
    assert second.try_all(sources) == made
    assert second.compiled == 0
    other = Compiler(Target.named(80), Cache(tmp_path), compiler._pool)
    other.try_all(sources)
    assert other.compiled == 1


def test_code_does_not_depend_on_where_the_function_stands(tmp_path, compiler):
    text = "import triton\nimport triton.language as tl\n\n@triton.jit\ndef one(y):\n    tl.store(y, 1.0)\n"
    codes = []
    for name, lines in (("a.py", 0), ("b.py", 40)):
        path = tmp_path / name
        path.write_text("\n" * lines + text)
        module = types.ModuleType("module")
        exec(compile(path.read_text(), str(path), "exec"), vars(module))
        arguments = {"y": TypedPointer(Pointer("y"), "float32")}
        codes.append(compiler.compile(specialize(KernelLaunch(module.one, arguments, {}, (1, 1, 1)))).cubin)
    assert codes[0] == codes[1]


WIDTH = tl.constexpr(8)


@triton.jit
def _inner(value):
    return value + WIDTH


@triton.jit
def outer(y):
    tl.store(y, _inner(1.0))


def test_every_part_of_the_key_matters():
    source = specialize(launch())
    changed = {
        "signature": replace(source, signature=(("x", "*fp16"), *source.signature[1:])),
        "constants": replace(source, constants=(("BLOCK", 512),)),
        "type of a constant": replace(source, constants=(("BLOCK", 256.0),)),
        "divisible": replace(source, divisible=()),
        "options": replace(source, options=(("num_warps", 8), ("num_stages", 3))),
        "function": replace(source, function=copy_tiles),
    }
    digests = {name: kernel_key(each, 90).digest for name, each in changed.items()}
    digests["target"] = kernel_key(source, 80).digest
    digests["same"] = kernel_key(source, 90).digest
    assert len(set(digests.values())) == len(digests)
    assert kernel_key(specialize(launch()), 90).digest == digests["same"]


def test_the_source_of_inner_functions_is_part_of_the_key():
    def of(inner):
        module = types.ModuleType("module")
        text = f"import triton\nimport triton.language as tl\n@triton.jit\ndef inner(v):\n    return {inner}\n"
        text += "@triton.jit\ndef outer(y):\n    tl.store(y, inner(1.0))\n"
        name = f"<test {inner}>"
        import linecache

        linecache.cache[name] = (len(text), None, text.splitlines(True), name)
        exec(compile(text, name, "exec"), vars(module))
        arguments = {"y": TypedPointer(Pointer("y"), "float32")}
        return kernel_key(specialize(KernelLaunch(module.outer, arguments, {}, (1, 1, 1))), 90).digest

    assert of("v + 1") != of("v + 2")
    assert of("v + 1") == of("v + 1")


def test_the_value_of_a_global_constant_is_part_of_the_key(monkeypatch, compiler):
    source = specialize(KernelLaunch(outer, {"y": TypedPointer(Pointer("y"), "float32")}, {}, (1, 1, 1)))
    before, code = kernel_key(source, 90), compiler.compile(source).cubin
    monkeypatch.setitem(globals(), "WIDTH", tl.constexpr(9))
    assert kernel_key(source, 90) != before
    assert compiler.compile(source).cubin != code
    monkeypatch.undo()
    assert kernel_key(source, 90) == before
    assert compiler.compile(source).cubin == code


@triton.jit
def wrong(y):
    tl.store(y, undefined_name)  # noqa: F821


class TestFailures:
    def test_they_name_the_function_and_the_target(self, compiler):
        source = specialize(KernelLaunch(wrong, {"y": TypedPointer(Pointer("y"), "float32")}, {}, (1, 1, 1)))
        with pytest.raises(
            KernelError, match=r"(?s)test_compilation\.wrong does not compile for sm_90.*undefined_name"
        ):
            compiler.compile(source)

    def test_one_of_many_does_not_end_the_others(self, compiler):
        bad = specialize(KernelLaunch(wrong, {"y": TypedPointer(Pointer("y"), "float32")}, {}, (1, 1, 1)))
        good, failed = compiler.try_all([specialize(launch()), bad])
        assert good.entry == "scale_and_add"
        assert isinstance(failed, KernelError)

    def test_too_much_shared_memory(self, compiler):
        arguments = {name: TypedPointer(Pointer(name), "bfloat16") for name in "xy"}
        arguments |= {"rows": Scalar("i32", 128), "columns": Scalar("i32", 192)}
        source = specialize(KernelLaunch(copy_tiles, arguments, {"BLOCK": 64}, (2, 3, 1)))
        small = Compiler(replace(Target.named(90), shared_memory=8000), workers=compiler._pool)
        with pytest.raises(KernelError, match="bytes of shared memory; there are 8000"):
            small.compile(source)

    def test_what_is_no_triton_function(self):
        with pytest.raises(KernelError, match="no Triton function"):
            specialize(replace(launch(), function=print))

    def test_bad_options(self, compiler):
        with pytest.raises(KernelError, match="does not compile"):
            compiler.compile(specialize(launch(num_warps=3)))

    def test_a_process_that_dies_costs_one_kernel(self, monkeypatch):
        with Compiler(Target.named(90), workers=1) as each:
            each.compile(specialize(launch()))
            (child,) = each._pool._alive
            child._process.kill()
            with pytest.raises(KernelError, match="ended with code -9"):
                each.compile(specialize(launch(1008)))
            assert each.compile(specialize(launch(1008))).entry == "scale_and_add"

    def test_arguments_that_are_not_the_functions(self):
        given = launch()
        for arguments, constants in (
            ({}, given.constants),
            (given.arguments, {}),
            ({**given.arguments, "z": Scalar("i32", 1)}, given.constants),
            (given.arguments, {**given.constants, "count": 3}),
        ):
            with pytest.raises(KernelError, match="scale_and_add is not given its parameters"):
                specialize(replace(given, arguments=arguments, constants=constants))


def test_processes_end_with_the_compiler():
    compiler = Compiler(Target.named(90), workers=1)
    compiler.compile(specialize(launch()))
    (child,) = compiler._pool._alive
    process = child._process
    del compiler, child
    assert process.wait(timeout=30) == -9


def test_processes_are_there_before_the_first_kernel():
    with Compiler(Target.named(90), workers=2) as compiler:
        compiler.prepare(1)
        (first,) = compiler._pool._alive
        compiler.prepare(9)
        both = [*compiler._pool._alive]
        assert both[0] is first
        assert len(both) == 2
        started = [compiler.start(specialize(launch(500 + 16 * number))) for number in range(3)]
        assert all(each.result().entry == "scale_and_add" for each in started)
        assert all(each.ready for each in started)
        assert compiler._pool._alive == both
    assert all(each._process.poll() is not None for each in both)


def test_a_machine_without_a_process_to_spare_says_so_when_it_is_asked(monkeypatch):
    def refuse(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    with Compiler(Target.named(90), workers=2) as compiler:
        monkeypatch.setattr(subprocess, "Popen", refuse)
        compiler.prepare(2)
        assert not compiler._pool._alive
        with pytest.raises(KernelError, match=r"no process could be started to compile: .*unavailable"):
            compiler.compile(specialize(launch(998)))


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 48), ("350000 100000", 4), ("100 100000", 1), ("9900000 100000", 48), (None, 48)],
)
def test_as_many_processes_as_a_container_has_cores(monkeypatch, tmp_path, quota, cores):
    """But no more than there is work for."""
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(48))
    monkeypatch.setattr(pool, "_QUOTA", tmp_path / "cpu.max")
    assert pool.available_cores() == cores
    assert WorkerPool().size == min(cores, pool.MOST_PROCESSES)
    assert WorkerPool(3).size == 3


def test_many_threads_compile_at_once(compiler):
    results = []

    def work(block):
        results.append(compiler.compile(specialize(launch(777, block))))

    threads = [threading.Thread(target=work, args=(2**i,)) for i in range(5, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({kernel.digest for kernel in results}) == 4


class TestBinding:
    def places(self):
        return {name: Pointer("arena", 4096 * i) for i, name in enumerate("xwy")}

    def test_ones_are_constants_and_multiples_of_sixteen_are_known(self):
        source = specialize(launch(count=1))
        assert dict(source.signature)["count"] == "constexpr"
        assert dict(source.constants)["count"] == 1
        assert source.parameters == ("pointer", "pointer", "pointer", "f32")
        assert specialize(launch(1008)).divisible == ("x", "w", "y", "count")
        assert specialize(launch(1000, offset=4)).divisible == ()

    def test_arguments_are_in_the_order_of_the_function(self, compiler):
        given = launch()
        kernel = compiler.compile(specialize(given))
        step = bind(given, kernel, self.places(), None, "label", "origin")
        pointers = (Pointer("arena"), Pointer("arena", 4096), Pointer("arena", 8192))
        expected = (*pointers, Scalar("i32", 1000), Scalar("f32", 2.0))
        assert step == Launch(kernel.digest, (4, 1, 1), expected, None, False, "label", "origin")

    def test_early_only_where_the_kernel_waits(self, compiler):
        given = launch(programmatic=True)
        kernel = compiler.compile(specialize(given))
        assert not kernel.waits
        assert not bind(given, kernel, self.places(), None).programmatic

    def test_scratch_memory_is_for_every_block(self, compiler):
        arguments = {name: TypedPointer(Pointer(name), "bfloat16") for name in "xy"}
        arguments |= {"rows": Scalar("i32", 128), "columns": Scalar("i32", 192)}
        given = KernelLaunch(copy_tiles, arguments, {"BLOCK": 64}, (2, 3, 1))
        kernel = compiler.compile(specialize(given))
        assert kernel.scratch_bytes == 256
        assert scratch_bytes(Candidate((given,)), [kernel]) == 6 * 256
        step = bind(given, kernel, self.places(), Pointer("arena", 16384))
        assert step.scratch == Pointer("arena", 16384)

    def test_tensor_maps_are_followed_by_what_they_describe(self, compiler, compilers):
        tensor = TensorMap(Pointer("x", 64), "bfloat16", (128, 192), (192, 1), (64, 32), 2)
        target = TensorMap(Pointer("y"), "bfloat16", (192, 128), (128, 1), (32, 64), 3)
        given = KernelLaunch(transpose_tiles, {"source": tensor, "target": target}, {"BLOCK": 64}, (2, 3, 1))
        square = replace(
            given,
            arguments={"source": replace(tensor, box=(64, 64), swizzle=3), "target": replace(target, box=(64, 64))},
        )
        kernel = compiler.compile(specialize(square))
        assert [tile.box for tile in kernel.tiles] == [(64, 64), (64, 64)]
        assert kernel.parameters == ("tensor_map", "i32", "i32", "i64", "i64") * 2
        step = bind(square, kernel, self.places(), None)
        assert step.arguments[:5] == (
            replace(square.arguments["source"], pointer=Pointer("arena", 64)),
            Scalar("i32", 128),
            Scalar("i32", 192),
            Scalar("i64", 192),
            Scalar("i64", 1),
        )
        with pytest.raises(KernelError, match="sm_90"):
            compilers[80].compile(specialize(square))


def test_the_ir_has_no_paths():
    assert "/" not in triton_ir(specialize(launch()), 90).replace("//", "")


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.ENOMEM])
def test_a_machine_that_has_no_process_to_spare_is_asked_again(monkeypatch, code):
    waited, failures = [], [OSError(code, "no process")] * 3
    monkeypatch.setattr(worker.time, "sleep", waited.append)

    def make():
        if failures:
            raise failures.pop()
        return {"cubin": ""}

    assert worker.patiently(make) == {"cubin": ""}
    assert waited == list(worker.WAITS[:3])
    failures += [OSError(code, "no process")] * (len(worker.WAITS) + 1)
    with pytest.raises(OSError, match="no process"):
        worker.patiently(make)
    assert not failures


def test_other_failures_are_told_at_once(monkeypatch):
    monkeypatch.setattr(worker.time, "sleep", lambda _: pytest.fail("waited"))

    def make():
        raise FileNotFoundError("ptxas")

    with pytest.raises(FileNotFoundError):
        worker.patiently(make)
