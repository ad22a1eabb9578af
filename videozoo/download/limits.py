"""How long, how often and how much a download may take."""

from __future__ import annotations

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
"""Longest silence in the middle of a body."""
MAX_RETRIES = 3
"""Retries of one request; also how often a body may end early without a MiB of progress."""
BACKOFF_SECONDS = 0.5
"""Pause before the second retry of one URL; doubles with each further one."""
MAX_PAUSE_SECONDS = 20.0
"""Longest pause, also where a server asks for a longer one by Retry-After."""
MAX_REDIRECTS = 10
MAX_BYTES = 8 << 30
"""Where the size is not known: no checkpoint is larger, and a disk is not filled by a server that never ends."""
CHUNK_BYTES = 1 << 20
"""What is received and hashed at a time."""
WRITE_BYTES = 128 << 10
"""What is written at a time: for more, Linux looks for larger pages, which on virtual machines cost thrice the time."""
MAX_CHUNKS_BEHIND = 8
"""How far hashing may fall behind writing."""
FLUSH_BYTES = 32 << 20
"""How much is written before the disk is told to begin with it."""
