"""Plans of several lanes: random ones of copies and fills, which the driver in host memory runs as well as a device,
and one of launches."""

import random
from dataclasses import dataclass

import numpy

from jitinfer.lowering.lanes import Lanes, waits_of
from jitinfer.lowering.placement import Lifetime, place
from jitinfer.lowering.slots import in_slots
from jitinfer.runtime import Buffer, Copy, Fill, Kernel, Launch, Plan, Pointer, Region, Slot

COPIED = 24


@dataclass(frozen=True)
class Part:
    """One node: bytes of its own, and some of each node that it reads; size: of its result."""

    reads: tuple[int, ...]
    starts: tuple[int, ...]
    size: int


def random_parts(choose, count):
    parts = []
    for number in range(count):
        reads = tuple(sorted(choose.sample(range(number), min(number, choose.randrange(3)))))
        starts = tuple(choose.randrange(parts[each].size - COPIED + 1) for each in reads)
        parts.append(Part(reads, starts, 32 + COPIED * len(reads)))
    return parts


def results(parts):
    """What each node computes."""
    found = []
    for number, part in enumerate(parts):
        value = numpy.full(part.size, number + 1, numpy.uint8)
        for position, (each, start) in enumerate(zip(part.reads, part.starts, strict=True)):
            value[32 + COPIED * position :][:COPIED] = found[each][start : start + COPIED]
        found.append(value)
    return found


def random_plan(seed, lanes=2, most=14):
    """A plan, and what its outputs are: the values that nobody reads."""
    choose = random.Random(seed)
    parts = random_parts(choose, choose.randrange(3, most))
    given = [choose.randrange(lanes) for _ in parts]
    number = {lane: i for i, lane in enumerate(sorted(set(given)))}
    assigned = [number[lane] for lane in given]
    order = Lanes(tuple(assigned), waits_of(assigned, [part.reads for part in parts]), (0.0, 0.0))
    read = {each for part in parts for each in part.reads}
    inner = sorted(read)
    users = {each: (each, *(i for i, part in enumerate(parts) if each in part.reads)) for each in inner}
    lifetimes = [Lifetime(f"v{each}", parts[each].size, users[each]) for each in inner]
    scratch = [each for each in range(len(parts)) if choose.random() < 0.5]
    lifetimes += [Lifetime(f"w{each}", choose.randrange(1, 300), (each,)) for each in scratch]
    placement = place(lifetimes, order.order)
    outer = [each for each in range(len(parts)) if each not in read]
    buffers = [Buffer(each.name, each.nbytes, "arena", placement.offsets[each.name]) for each in lifetimes]
    sizes = {each.name: each.nbytes for each in buffers}
    buffers += [Buffer(f"v{i}", parts[i].size, "output", 0, (parts[i].size,), "uint8") for i in outer]
    steps = []
    for i, part in enumerate(parts):
        work = [Fill(Pointer(f"w{i}"), sizes[f"w{i}"], 0xDD)] if i in scratch else []
        work.append(Fill(Pointer(f"v{i}"), part.size, i + 1))
        for position, (each, start) in enumerate(zip(part.reads, part.starts, strict=True)):
            place_ = Pointer(f"v{i}", 32 + COPIED * position)
            work.append(Copy(Pointer(f"v{each}", start), place_, COPIED))
        steps.append(work)
    placed, slots = in_slots(steps, [() for _ in parts], order)
    plan = Plan(
        target=90,
        arena_bytes=placement.nbytes,
        buffers=tuple(buffers),
        steps=placed,
        kernels=(),
        inputs=(),
        outputs=tuple(f"v{i}" for i in outer),
        slots=slots,
    )
    return plan, [results(parts)[i] for i in outer]


KERNEL = Kernel(b"code", "kernel", 90, 4, 0, ("pointer", "pointer"), waits=True)


def launches(*, early):
    """Two lanes of launches: 0 and 1, 3 on lane 0, 2 and 4 on lane 1; 3 waits for 2."""
    names = [("x", "a"), ("a", "b"), ("x", "c"), ("c", "y"), ("c", "z")]
    places = {"x": "input", "y": "output", "z": "output"}
    buffers = [
        Buffer(name, 64, places[name], 0, (64,), "uint8") if name in places else Buffer(name, 64, "arena", 256 * i)
        for i, name in enumerate(dict.fromkeys(name for pair in names for name in pair))
    ]
    slots = [
        Slot(lane, after, (Region(written, 0, 64),))
        for (_, written), (lane, after) in zip(names, [(0, ()), (0, ()), (1, ()), (0, (2,)), (1, ())], strict=True)
    ]
    steps = [
        Launch(KERNEL.digest, (1, 1, 1), tuple(map(Pointer, pair)), programmatic=step in early, label=f"launch_{step}")
        for step, pair in enumerate(names)
    ]
    return Plan(90, 256 * 6, tuple(buffers), tuple(steps), (KERNEL,), ("x",), ("y", "z"), slots=tuple(slots))


def ended_before(steps, after):
    """Of each step, all that have ended when it begins; after: those directly before it."""
    found = []
    for step in range(steps):
        found.append(set(after[step]).union(*(found[each] for each in after[step])))
    return found


def directly_before(plan):
    """Of each step of a plan with slots."""
    lanes = [slot.lane for slot in plan.slots]
    return [
        {*slot.after, *(each for each in range(step) if lanes[each] == slot.lane)}
        for step, slot in enumerate(plan.slots)
    ]
