"""Copies within a device: several small ones by one kernel, whose launch costs the host less than a copy for each."""

from __future__ import annotations

import ctypes
import logging
import struct
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from jitinfer.errors import DeviceError, DeviceLostError
from jitinfer.runtime.driver import bound, call

if TYPE_CHECKING:
    from collections.abc import Sequence

Move: TypeAlias = tuple[int, int, int]
"""Destination, source, bytes: addresses of the device, of memory that does not overlap."""

logger = logging.getLogger("jitinfer.runtime")

MOST_BYTES = 2**20
"""Of a move that the kernel does: the driver's own copies are as fast as memory, and large ones are worth a call."""

MOST_MOVES = 16
"""Of a launch."""

_THREADS = 256
_MOST_BLOCKS = 64
_WORD = 16
"""Bytes that a thread takes at a time, where source and destination are multiples of it; otherwise one at a time."""

# A block of the grid's second dimension for each move, which is three numbers of eight bytes.
_CODE = b"""
.version 7.0
.target sm_80
.address_size 64
.visible .entry copy_moves(.param .align 8 .b8 moves[MOVES_BYTES])
{
  .reg .pred %end, %bytewise;
  .reg .b16 %byte;
  .reg .b32 %a, %b, %word<4>;
  .reg .b64 %move, %to, %from, %nbytes, %index, %step, %first, %words, %source, %destination;

  mov.u32 %a, %ctaid.y;
  mul.wide.u32 %move, %a, 24;
  mov.b64 %first, moves;
  add.s64 %move, %move, %first;
  ld.param.b64 %to, [%move];
  ld.param.b64 %from, [%move+8];
  ld.param.b64 %nbytes, [%move+16];

  mov.u32 %a, %ctaid.x;
  mov.u32 %b, %ntid.x;
  mul.wide.u32 %first, %a, %b;
  mov.u32 %a, %tid.x;
  cvt.u64.u32 %index, %a;
  add.s64 %first, %first, %index;
  mov.u32 %a, %nctaid.x;
  mul.wide.u32 %step, %a, %b;

  or.b64 %words, %to, %from;
  and.b64 %words, %words, 15;
  setp.ne.s64 %bytewise, %words, 0;
  shr.u64 %words, %nbytes, 4;
  @%bytewise mov.b64 %words, 0;
  mov.b64 %index, %first;
WORD:
  setp.ge.u64 %end, %index, %words;
  @%end bra REST;
  shl.b64 %move, %index, 4;
  add.s64 %source, %from, %move;
  add.s64 %destination, %to, %move;
  ld.global.v4.b32 {%word0, %word1, %word2, %word3}, [%source];
  st.global.v4.b32 [%destination], {%word0, %word1, %word2, %word3};
  add.s64 %index, %index, %step;
  bra WORD;
REST:
  shl.b64 %words, %words, 4;
  add.s64 %index, %first, %words;
BYTE:
  setp.ge.u64 %end, %index, %nbytes;
  @%end bra DONE;
  add.s64 %source, %from, %index;
  add.s64 %destination, %to, %index;
  ld.global.b8 %byte, [%source];
  st.global.b8 [%destination], %byte;
  add.s64 %index, %index, %step;
  bra BYTE;
DONE:
  ret;
}
\0""".replace(b"MOVES_BYTES", b"%d" % (24 * MOST_MOVES))


class DeviceCopies:
    """For one caller at a time, with the device's context current."""

    def __init__(self, device: int) -> None:
        self._device = device
        self._copy = bound("cuMemcpyDtoDAsync", step="copying the inputs")
        self._launch = bound("cuLaunchKernel", step="copying the inputs")
        self._moves = (ctypes.c_uint64 * (3 * MOST_MOVES))()
        self._arguments = (ctypes.c_void_p * 1)(ctypes.addressof(self._moves))
        self._arguments_address = ctypes.addressof(self._arguments)

    def queue(self, moves: Sequence[Move], stream: int) -> None:
        """Raises DeviceError."""
        small = [move for move in moves if move[2] <= MOST_BYTES] if len(moves) > 1 else []
        kernel = _kernel(self._device) if len(small) > 1 else None
        if kernel is None:
            small = []
        for first in range(0, len(small), MOST_MOVES):
            self._together(kernel, small[first : first + MOST_MOVES], stream)
        for destination, source, nbytes in moves:
            if not small or nbytes > MOST_BYTES:
                self._copy(destination, source, nbytes, stream)

    def _together(self, kernel: Any, moves: Sequence[Move], stream: int) -> None:
        # The driver has copied the arguments when the launch returns.
        numbers = [number for move in moves for number in move]
        struct.pack_into(f"{len(numbers)}Q", self._moves, 0, *numbers)
        most = max(numbers[2::3])
        blocks = min(-(-most // (_WORD * _THREADS)), _MOST_BLOCKS)
        self._launch(kernel, blocks, len(moves), 1, _THREADS, 1, 1, 0, stream, self._arguments_address, 0)


@cache
def _kernel(device: int) -> Any:
    """For the life of the process, as the device's context; None where the driver has no compiler for it."""
    try:
        module = call("cuModuleLoadData", _CODE, step="loading the kernel that copies inputs")
        return call("cuModuleGetFunction", module, b"copy_moves")
    except DeviceLostError:
        raise
    except DeviceError as error:
        logger.info("each input on the device is copied by a call of its own: %s", error)
        return None
