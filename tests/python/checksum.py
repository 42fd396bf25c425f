"""The checksum of frames, in commit logs and on links."""

from __future__ import annotations

_CRC32C = [0] * 256
for _n in range(256):
    _crc = _n
    for _ in range(8):
        _crc = _crc >> 1 ^ (0x82F63B78 if _crc & 1 else 0)
    _CRC32C[_n] = _crc


def crc32c(data: bytes) -> int:
    """Castagnoli's checksum, as slow as it is plain."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC32C[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF
