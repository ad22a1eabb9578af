"""Every error that videozoo raises on purpose, and the exit status the command line answers with.

    VideoZooError                     1   anything below; never raised itself
    ├── InvalidArgument               2   an argument outside its documented range (also a ValueError)
    ├── UnknownModel                  2   no such architecture
    ├── UnknownWeights                2   no such weights, or none of that pretraining
    ├── CheckpointError               3   a checkpoint that cannot be used
    │   ├── UnreadableCheckpoint      3     not a checkpoint, damaged, or refused as unsafe
    │   ├── UnknownLayout             3     readable, but no architecture fits its tensors
    │   └── CheckpointMismatch        3     fits another architecture or another number of classes
    ├── FetchError                    4   weights that could not be had
    │   ├── DigestMismatch            4     the bytes are not those that the manifest names
    │   └── NoSource                  4     no file was published, or none can be reached
    ├── VideoError                    5   a video that cannot be decoded
    ├── OutputError                   6   an output that exists already or cannot be written
    ├── ListError                     7   a list of videos that cannot be used
    ├── TrainingError                 8   a training that cannot go on
    └── RanksError                    8   processes of one run that do not find each other

Every message is one line (a conversion report adds indented lines): what was asked, what was found, what to do next.
"""


class VideoZooError(Exception):
    """Base of every error raised on purpose; ``exit_status`` is what the command line returns for it."""

    exit_status = 1


class InvalidArgument(VideoZooError, ValueError):
    """An argument outside its documented range."""

    exit_status = 2


class UnknownModel(VideoZooError):
    """No architecture has this name."""

    exit_status = 2


class UnknownWeights(VideoZooError):
    """No manifest row has this name, tag or pretraining."""

    exit_status = 2


class CheckpointError(VideoZooError):
    """A checkpoint that cannot be used."""

    exit_status = 3


class UnreadableCheckpoint(CheckpointError):
    """Not a checkpoint, damaged, or refused because it asks for something unsafe."""


class UnknownLayout(CheckpointError):
    """A readable checkpoint whose tensors fit no known architecture, or more than one."""


class CheckpointMismatch(CheckpointError):
    """A checkpoint whose tensors do not fit the architecture or class count that was asked for."""


class FetchError(VideoZooError):
    """Weights that could not be fetched."""

    exit_status = 4


class DigestMismatch(FetchError):
    """The bytes are not those that the manifest names."""


class NoSource(FetchError):
    """No file was published for the weights, or none of its sources can be used."""


class VideoError(VideoZooError):
    """A video, frame folder or array that cannot be turned into clips."""

    exit_status = 5


class OutputError(VideoZooError):
    """An output that exists already or cannot be written."""

    exit_status = 6


class ListError(VideoZooError):
    """A list of videos that cannot be read, is empty, or has a bad line."""

    exit_status = 7


class TrainingError(VideoZooError):
    """A training whose loss is no number any more."""

    exit_status = 8


class RanksError(VideoZooError):
    """Processes of one run that do not find each other, or one of which has ended."""

    exit_status = 8


def printable(text: object) -> str:
    r"""``text`` on one line, whatever a file or a file system has put into it.

    What cannot be printed as it is (control and formatting characters, undecodable bytes) is escaped as in a Python
    string; all else stays as it is.

    >>> printable("two\nlines")
    'two\\nlines'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in str(text))


def first_line(error: VideoZooError) -> str:
    """The line of a message that says it all; the lines of a report behind it are indented by two."""
    return printable(str(error).partition("\n  ")[0])


def reason(error: BaseException) -> str:
    r"""What a library says went wrong: the first line of it, printable and not long; where it says nothing, its type.

    >>> reason(RuntimeError("no such operator\n  at line 7")), reason(MemoryError())
    ('no such operator', 'MemoryError')
    """
    text = str(getattr(error, "strerror", None) or error)
    return printable((text.strip().splitlines() or [type(error).__name__])[0][:300])
