"""Work before and behind the model in threads of its own: order kept, memory bounded.

Threads, not processes: decoders and encoders do their work outside Python's lock, and converting
colours (PyAV 17 and later) starts a pool of threads that would hang in a forked process.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Made(NamedTuple, Generic[T]):
    value: T


class _End(NamedTuple):
    error: BaseException | None = None


@contextmanager
def ahead(items: Iterator[T], depth: int) -> Iterator[Iterator[T]]:
    """Make the next items while the block works on one of them.

    An error in the making is raised where its item would have come. When the block is left, nothing
    more is made, and the thread has ended.

    Args:
        items: Made in a thread of their own.
        depth: How many may wait; with 0 they are made in the block itself.
    """
    if depth < 1:
        yield items
        return
    room, left = threading.Semaphore(depth), threading.Event()
    made: SimpleQueue[_Made[T] | _End] = SimpleQueue()

    def make() -> None:
        try:
            while room.acquire() and not left.is_set():
                made.put(_Made(next(items)))
        except StopIteration:
            made.put(_End())
        except BaseException as error:  # noqa: BLE001  # raised by whoever waits for the item
            made.put(_End(error))

    def take() -> Iterator[T]:
        while not isinstance(found := made.get(), _End):
            room.release()
            yield found.value
        if found.error is not None:
            raise found.error

    thread = threading.Thread(target=make, name="flowfeat-ahead", daemon=True)
    thread.start()
    try:
        yield take()
    finally:
        left.set()
        room.release()
        thread.join()


@contextmanager
def behind(work: Callable[[T], None], depth: int) -> Iterator[Callable[[T], None]]:
    """Do the work on what the block hands over in a thread, in order.

    When the block ends well, all of it is done; when it ends with an error, the rest is dropped. An
    error in the work is raised at the next item, or at the block's end.

    Args:
        work: Takes an item.
        depth: How many may wait; with 0 the work is done in the block itself.
    """
    if depth < 1:
        yield work
        return
    room, left = threading.Semaphore(depth), threading.Event()
    given: SimpleQueue[_Made[T] | _End] = SimpleQueue()
    failed: list[BaseException] = []

    def do() -> None:
        while not isinstance(item := given.get(), _End):
            if not failed and not left.is_set():
                try:
                    work(item.value)
                except BaseException as error:  # noqa: BLE001  # raised by whoever gives the work
                    failed.append(error)
            room.release()

    def give(item: T) -> None:
        room.acquire()
        if failed:
            raise failed[0]
        given.put(_Made(item))

    thread = threading.Thread(target=do, name="flowfeat-behind", daemon=True)
    thread.start()
    try:
        yield give
    except BaseException:
        left.set()
        raise
    finally:
        given.put(_End())
        thread.join()
    if failed:
        raise failed[0]
