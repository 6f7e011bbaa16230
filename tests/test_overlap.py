"""Threads before and behind a loop: order, bounds, errors in their place, no thread left over."""

import threading
from collections.abc import Iterator

import pytest

from flowfeat.overlap import ahead, behind

DEPTHS = [0, 1, 3]


@pytest.fixture(autouse=True)
def _no_thread_is_left_over() -> Iterator[None]:
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("flowfeat-")]


@pytest.mark.parametrize("depth", DEPTHS)
def test_everything_comes_in_order(depth: int) -> None:
    done: list[int] = []
    with ahead(iter(range(50)), depth) as items, behind(done.append, depth) as hand_over:
        for item in items:
            hand_over(item)
    assert done == list(range(50))


def test_the_next_item_is_made_while_one_is_in_work() -> None:
    making = threading.Event()

    def items() -> Iterator[int]:
        yield 0
        making.set()
        yield 1

    with ahead(items(), 1) as found:
        assert next(found) == 0
        assert making.wait(60)  # nobody has asked for it yet


def test_no_more_is_made_than_may_wait() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            yield number

    with ahead(items(), 2) as found:
        for number in found:
            assert len(made) <= number + 1 + 2
            if number == 20:
                break
    assert len(made) <= 23


def test_work_is_handed_over_and_waits_when_there_is_no_room() -> None:
    gate, done, given = threading.Semaphore(0), [], []  # type: ignore[var-annotated]

    def work(item: int) -> None:
        gate.acquire()
        done.append(item)

    with behind(work, 2) as hand_over:
        for item in range(2):  # nothing is done yet, and nobody waits
            hand_over(item)
        assert done == []
        blocked = threading.Thread(target=lambda: (hand_over(2), given.append(2)))
        blocked.start()
        assert given == []
        for _ in range(3):
            gate.release()
        blocked.join(60)
        assert given == [2]
    assert done == [0, 1, 2]


@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_an_error_in_the_making_comes_where_its_item_would(
    depth: int, error: BaseException
) -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise error

    seen: list[int] = []
    with ahead(items(), depth) as found, pytest.raises(type(error)) as raised:
        seen.extend(found)
    assert raised.value is error
    assert seen == list(range(5))


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_error_in_the_work_ends_the_block_and_the_rest_is_dropped(depth: int) -> None:
    done = []

    def work(item: int) -> None:
        if item == 3:
            raise OSError("disk full")
        done.append(item)

    def run(*items: int) -> None:
        with behind(work, depth) as hand_over:
            for item in items:
                hand_over(item)

    with pytest.raises(OSError, match="disk full"):
        run(*range(100))
    assert done == [0, 1, 2]
    with pytest.raises(OSError, match="disk full"):
        run(3)  # the last one: raised at the block's end


@pytest.mark.parametrize("depth", DEPTHS)
def test_an_interrupted_block_stops_both(depth: int) -> None:
    made, done = [], []  # type: ignore[var-annotated]

    def items() -> Iterator[int]:
        for number in range(10_000):
            made.append(number)
            yield number

    def run() -> None:
        with ahead(items(), depth) as found, behind(done.append, depth) as hand_over:
            for item in found:
                hand_over(item)
                if item == 10:
                    raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(made) <= 11 + depth
    assert done == list(range(len(done)))
