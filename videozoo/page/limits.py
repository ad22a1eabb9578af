"""What the page accepts, and how it says no."""

from __future__ import annotations

from dataclasses import dataclass

from videozoo.errors import InvalidArgument


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one upload, and of how many wait."""

    max_bytes: int = 100_000_000
    max_seconds: float = 120.0
    """Of the video."""
    max_pixels: int = 4096 * 2304
    """Of a frame."""
    max_resized_pixels: int = 1 << 20
    """Of a frame as the network's crops are cut from it: of a long and thin one, a resize by the short side makes far
    more than the file has."""
    max_frame_rate: float = 120.0
    """A file of more frames than this rate gives in ``max_seconds`` is refused, whatever rate it announces."""
    max_windows: int = 240
    upload_seconds: float = 120.0
    """For the whole body."""
    idle_seconds: float = 20.0
    """Between two pieces of the body."""
    job_seconds: float = 600.0
    """For the answer, once its turn has come."""
    queue: int = 16
    """Uploads at once, waiting ones included."""

    def __post_init__(self) -> None:
        """Raise InvalidArgument for a limit that lets nothing through."""
        for name in self.__slots__:
            if not 0 < getattr(self, name) < 1e15:
                raise InvalidArgument(f"{name}={getattr(self, name)}: has to be a number above 0")


class Refused(Exception):
    """An answer other than 200: a status of HTTP, and a reason for the one who asked."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason
