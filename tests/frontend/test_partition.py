"""Which operations run where: few pieces, in an order that computes the same."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitinfer.frontend.partition import FLOPS_FOR_A_BYTE, Task, partition, with_neighbours


@st.composite
def programs(draw):
    """Tasks, some of them on the host, over values that are numbers of their makers; 1000 and 1001 are inputs."""
    count = draw(st.integers(1, 12))
    tasks, host = [], set()
    for number in range(count):
        reads = draw(st.lists(st.sampled_from([1000, 1001, *range(number)]), max_size=3, unique=True))
        ordered = draw(st.integers(0, 5)) == 0
        tasks.append(Task(tuple(reads), (number,), draw(st.integers(0, 100)), ordered))
        if ordered or draw(st.integers(0, 2)) == 0:
            host.add(number)
    results = draw(st.lists(st.sampled_from(range(count)), min_size=1, max_size=3, unique=True))
    return tasks, host, results


def value_of(task, values, drawn):
    """What a task computes: something that depends on its operands' order, and on how many were drawn before it."""
    return hash((task.writes, tuple(values[each] for each in task.reads), len(drawn) if task.ordered else None))


def evaluated(tasks, results):
    values, drawn = {1000: 1, 1001: 2}, []
    for task in tasks:
        values[task.writes[0]] = value_of(task, values, drawn)
        drawn += [task] if task.ordered else []
    return [values[each] for each in results]


def evaluated_in_pieces(tasks, pieces, results):
    """Each piece sees what it says it reads, and the others see what it says it writes."""
    outside, drawn = {1000: 1, 1001: 2}, []
    for piece in pieces:
        values = {each: outside[each] for each in piece.reads}
        for number in piece.tasks:
            values[number] = value_of(tasks[number], values, drawn)
            drawn += [tasks[number]] if tasks[number].ordered else []
        outside.update((each, values[each]) for each in piece.writes)
    return [outside[each] for each in results]


@given(programs())
@settings(max_examples=150, deadline=None)
def test_the_pieces_in_their_order_are_the_program(program):
    tasks, host, results = program
    pieces = partition(tasks, host, results)
    assert sorted(number for piece in pieces for number in piece.tasks) == list(range(len(tasks)))
    assert all((number in host) == piece.host for piece in pieces for number in piece.tasks)
    assert evaluated_in_pieces(tasks, pieces, results) == evaluated(tasks, results)


@given(programs())
@settings(max_examples=100, deadline=None)
def test_no_path_leaves_a_piece_and_comes_back(program):
    tasks, host, results = program
    for piece in partition(tasks, host, results):
        inside, tainted = set(piece.tasks), set()
        for number, task in enumerate(tasks):
            reads_tainted = any(each in tainted for each in task.reads)
            assert not (number in inside and reads_tainted)
            if number not in inside and (reads_tainted or any(each in inside for each in task.reads)):
                tainted.add(number)


@given(programs())
@settings(max_examples=100, deadline=None)
def test_there_are_no_more_pieces_than_the_longest_chain_has(program):
    """Along a path, and from one ordered task to the next, every change of kind needs another piece."""
    tasks, host, results = program
    changes, last_ordered = [], None
    for number, task in enumerate(tasks):
        before = [each for each in task.reads if each < 1000]
        before += [last_ordered] if task.ordered and last_ordered is not None else []
        last_ordered = number if task.ordered else last_ordered
        for first in (False, True):
            starts = 0 if (number in host) == first else 1
            longest = max((changes[each][first] + ((each in host) != (number in host)) for each in before), default=0)
            changes += [{}] if len(changes) == number else []
            changes[number][first] = max(longest, starts)
    least = min(1 + max(each[first] for each in changes) for first in (False, True))
    assert len(partition(tasks, host, results)) <= least


@given(programs(), st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_what_stays_on_the_device_is_worth_its_way(program, size):
    tasks, host, results = program
    nbytes = dict.fromkeys([*range(len(tasks)), 1000, 1001], size)
    chosen = with_neighbours(tasks, host, results, nbytes)
    assert chosen >= host
    assert with_neighbours(tasks, chosen, results, nbytes) == chosen
    pieces = partition(tasks, chosen, results)
    assert evaluated_in_pieces(tasks, pieces, results) == evaluated(tasks, results)


def chain(*flops):
    """One task after the other, each reading the one before."""
    return [Task((1000 if i == 0 else i - 1,), (i,), each) for i, each in enumerate(flops)]


@pytest.mark.parametrize(("flops", "moves"), [(FLOPS_FOR_A_BYTE * 20 - 1, True), (FLOPS_FOR_A_BYTE * 20, False)])
def test_what_computes_little_between_two_on_the_host_goes_along(flops, moves):
    """It reads 10 bytes of one and gives 10 bytes to the other."""
    tasks = chain(10**9, 1, flops // 2, flops - flops // 2, 1, 10**9)
    chosen = with_neighbours(tasks, {1, 4}, [5], dict.fromkeys([1000, *range(6)], 10))
    assert chosen == ({1, 2, 3, 4} if moves else {1, 4})
    assert len(partition(tasks, chosen, [5])) == (3 if moves else 5)


def test_what_has_no_neighbour_on_the_host_stays():
    tasks = [*chain(0, 0), Task((1001,), (2,), 0)]
    nbytes = dict.fromkeys([1000, 1001, 0, 1, 2], 10)
    assert with_neighbours(tasks, {0}, [1, 2], nbytes) == {0, 1}


def test_what_is_read_first_on_the_host_runs_first():
    tasks = chain(1, 10**9)
    assert [piece.host for piece in partition(tasks, {0}, [1])] == [True, False]


def test_random_numbers_are_drawn_in_the_order_of_the_program():
    """The first draws after a product on the device, the second could draw at once."""
    tasks = [Task((1000,), (0,)), Task((0,), (1,), ordered=True), Task((), (2,), ordered=True)]
    pieces = partition(tasks, {1, 2}, [1, 2])
    assert [piece.tasks for piece in pieces] == [(0,), (1, 2)]
