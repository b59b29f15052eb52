"""A disk that is full from some write on: what a process writes to files below a folder then fails, with ENOSPC.

No mount and no right is needed for it. The process lets the kernel ask, before each of its calls that write, somebody
else (seccomp's user notification, Linux 5.5 and later), who looks which file it is for, and says yes or no.
"""

import ctypes
import errno
import os
import platform
import select
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fcntl import ioctl
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path
from threading import Thread
from typing import Any

# By machine: its name to the kernel, the number of `seccomp`, and those of write, pwrite64, writev, pwritev, pwritev2,
# sendfile and fallocate. The file is the first argument of all of them.
_CALLS = {
    "x86_64": (0xC000003E, 317, (1, 18, 20, 296, 328, 40, 285)),
    "aarch64": (0xC00000B7, 277, (64, 68, 66, 70, 287, 71, 47)),
}
# From linux/seccomp.h, linux/prctl.h and linux/bpf_common.h.
_NO_NEW_PRIVS, _SET_FILTER, _NEW_LISTENER = 38, 1, 8
_ASK, _ALLOW, _GO_ON = 0x7FC00000, 0x7FFF0000, 1
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_LOAD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06
_QUESTION = struct.Struct("=QIIiIQ6Q")  # ID, thread, flags; call, machine, place; arguments
_ANSWER = struct.Struct("=QqiI")  # ID, value, error, flags


class FullDisk:
    """What is below `folder` takes `writes` more, None: all. `seen`: how many were asked for."""

    def __init__(self, folder: Path, writes: int | None = None) -> None:
        self._below, self._left = f"{folder}/", writes
        self.seen = 0

    def takes(self, path: str) -> bool:
        if not path.startswith(self._below):
            return True
        self.seen += 1
        return self._left is None or self.seen <= self._left


def on_it(teller: Connection, work: Callable[..., Any], *arguments: Any) -> None:
    """For a process: do `work`, and have each write judged by who is at the other end. There is no way back."""
    listener = _submit()
    send_handle(teller, listener, os.getppid())
    os.close(listener)
    teller.close()
    work(*arguments)


@contextmanager
def judged(disk: FullDisk) -> Iterator[Connection]:
    """The end for a process that does its work `on_it`, which is over when this is left."""
    ours, theirs = Pipe()
    thread = Thread(target=_judge, args=(ours, disk), name="disk", daemon=True)
    thread.start()
    try:
        yield theirs
    finally:
        theirs.close()
        thread.join()
        ours.close()


def _judge(ours: Connection, disk: FullDisk) -> None:
    try:
        listener = recv_handle(ours)
    except (EOFError, RuntimeError):  # nobody came
        return
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    try:
        while not poll.poll()[0][1] & select.POLLHUP:  # until nobody is left who could ask
            with suppress(FileNotFoundError):  # it was killed while it asked
                question = bytearray(_QUESTION.size)
                ioctl(listener, _RECEIVE, question)
                number, thread, *_, file = _QUESTION.unpack(question)[:7]
                error, go_on = (0, _GO_ON) if disk.takes(_path(thread, file)) else (-errno.ENOSPC, 0)
                ioctl(listener, _SEND, _ANSWER.pack(number, 0, error, go_on))
    finally:
        os.close(listener)


def _path(thread: int, file: int) -> str:
    try:
        return str(Path(f"/proc/{thread}/fd/{file & 0xFFFFFFFF}").readlink())
    except OSError:
        return ""


def _submit() -> int:
    """The descriptor at which this process' calls are asked for from now on, and those of threads still to come."""
    machine, seccomp, calls = _CALLS[platform.machine()]
    steps = [(_LOAD, 0, 0, 4), (_JUMP_IF_EQUAL, 0, len(calls) + 1, machine), (_LOAD, 0, 0, 0)]
    steps += [(_JUMP_IF_EQUAL, len(calls) - at, 0, call) for at, call in enumerate(calls)]
    steps += [(_RETURN, 0, 0, _ALLOW), (_RETURN, 0, 0, _ASK)]
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in steps))
    described = struct.pack("@HP", len(steps), ctypes.addressof(program))
    kernel = ctypes.CDLL(None, use_errno=True)
    if kernel.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")
    listener = int(kernel.syscall(seccomp, _SET_FILTER, _NEW_LISTENER, described))
    if listener < 0:
        raise OSError(ctypes.get_errno(), "seccomp: a full disk can't be played here")
    return listener
