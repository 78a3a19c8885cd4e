"""AV1 streams (AV1 Bitstream & Decoding Process Specification 1.0.0, section 5): the size of their frames, and how many
they have. AVIF files hold one in each picture."""

import struct
from collections.abc import Iterator

_SEQUENCE_HEADER, _FRAME_HEADER, _FRAME = 1, 3, 6
_MOST_UNITS = 100_000


class _Bits:
    """Reads numbers of any number of bits; those behind the end of the data are 0."""

    def __init__(self, data: bytes) -> None:
        self._number, self._left = int.from_bytes(data), 8 * len(data)

    def take(self, count: int) -> int:
        self._left -= count
        shifted = self._number >> self._left if self._left >= 0 else self._number << -self._left
        return shifted & (1 << count) - 1


def read_stream(stream: bytes) -> tuple[tuple[int, int], int]:
    """The largest (height, width) of a frame of the stream, for which a decoder reserves memory, and how many frames it
    has. Raises struct.error where the stream does not begin as it must."""
    sizes: set[tuple[int, int]] = set()
    frames = 0
    for kind, payload in _units(stream):
        if kind == _SEQUENCE_HEADER:
            sizes.add(_stated_size(_Bits(payload[:256])))
        frames += kind in (_FRAME_HEADER, _FRAME)
    if len(sizes) != 1 or not frames:
        raise struct.error("a stream without a picture of one size")
    return sizes.pop(), frames


def _units(stream: bytes) -> Iterator[tuple[int, bytes]]:
    """(type, payload) of each unit (OBU) of a stream."""
    at = 0
    for _ in range(_MOST_UNITS):
        if at >= len(stream):
            return
        flags = stream[at]
        at += 2 if flags & 4 else 1  # a second byte says to which layer the unit belongs
        size, length = len(stream) - at, 0
        if flags & 2:
            size, length = _leb128(stream, at)
        at += length
        if flags & 0x80 or at + size > len(stream):
            raise struct.error("a unit ends behind its stream")
        yield flags >> 3 & 15, stream[at : at + size]
        at += size
    raise struct.error(f"more than {_MOST_UNITS} units")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """A number in bytes of seven bits, the lowest first, and how many bytes it takes."""
    number = 0
    for length in range(8):
        byte = data[at + length] if at + length < len(data) else 0
        number |= (byte & 0x7F) << 7 * length
        if not byte & 0x80:
            return number, length + 1
    return number, 8


def _stated_size(bits: _Bits) -> tuple[int, int]:
    """The largest (height, width) in a sequence header; names of the fields are those of section 5.5."""
    take = bits.take
    take(3 + 1)  # seq_profile, still_picture
    if take(1):  # reduced_still_picture_header
        take(5)  # seq_level_idx
    else:
        delay_bits, decoder_model = 0, 0
        if take(1):  # timing_info_present_flag
            take(32 + 32)
            if take(1):  # equal_picture_interval
                zeros = 0
                while zeros < 32 and not take(1):
                    zeros += 1
                take(zeros)
            decoder_model = take(1)
            if decoder_model:
                delay_bits = take(5) + 1
                take(32 + 5 + 5)
        display_delay = take(1)
        for _ in range(take(5) + 1):  # operating points
            take(12)
            if take(5) > 7:  # seq_level_idx
                take(1)
            if decoder_model and take(1):
                take(2 * delay_bits + 1)
            if display_delay and take(1):
                take(4)
    width_bits, height_bits = take(4) + 1, take(4) + 1
    width, height = take(width_bits) + 1, take(height_bits) + 1
    return height, width
