"""Class names, one text file per data set, one name a line in class order."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from videozoo.errors import InvalidArgument
from videozoo.manifest import load


@cache
def labels(dataset: str) -> tuple[str, ...]:
    """Class names of ``dataset``, a key of the manifest's ``datasets``, in class order.

    Raises:
        InvalidArgument: there is no such data set, or no list of its class names is carried.

    >>> labels("kinetics400")[0]
    'abseiling'
    """
    datasets = load().datasets
    named = [name for name, record in datasets.items() if record.labels is not None]
    file = datasets[dataset].labels if dataset in datasets else None
    if file is None:
        raise InvalidArgument(f"no class names are carried for {dataset!r}; they are for {', '.join(named)}")
    return tuple(files(__name__).joinpath(file).read_text(encoding="utf-8").splitlines())
