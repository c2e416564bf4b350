"""Refuses, at import, a Python or a package with which tfrl cannot work.

dm-reverb 0.14.0 is its newest release, and its C++ library loads with TensorFlow 2.15 only, which
in turn needs Keras 2.15, NumPy 1 and protobuf 4. `check` reports it in one sentence, before anything
heavy is imported.

Versions are read off the names of the `.dist-info` folders on sys.path, since importing
importlib.metadata takes 30 ms and this runs at every start, `--help` included. A package without
such a folder is looked up through importlib.metadata.
"""

import os
import sys

# Package -> (accepted versions, in words, what to install).
_REQUIRED = {
    "tensorflow": (lambda v: v[:2] == (2, 15), "2.15.*", "tensorflow==2.15.1"),
    "dm-reverb": (lambda v: v[:2] == (0, 14), "0.14.*", "dm-reverb==0.14.0"),
    "keras": (lambda v: v[:2] == (2, 15), "2.15.*", "keras==2.15.0"),
    "numpy": (lambda v: v < (2,), "below 2", "numpy==1.26.4"),
    "protobuf": (lambda v: v < (5,), "below 5", "protobuf==4.25.9"),
}
# The same module under another name on the package index.
_ALSO_KNOWN_AS = {"tensorflow": ("tensorflow-cpu",)}


def check():
    """Raises ImportError, in one sentence, when Python or a package is not one tfrl works with."""
    if sys.version_info[:2] not in ((3, 10), (3, 11)):
        raise ImportError(
            "tfrl needs Python 3.11 or 3.10, the newest for which dm-reverb is built, but this is "
            f"Python {sys.version_info[0]}.{sys.version_info[1]}: install Python 3.11 and make the "
            "environment with it."
        )
    names = [*_REQUIRED, *(name for others in _ALSO_KNOWN_AS.values() for name in others)]
    listed = _listed_versions(names)
    faults, remedies = [], []
    for name, (accepts, words, install) in _REQUIRED.items():
        version = None
        for candidate in (name, *_ALSO_KNOWN_AS.get(name, ())):
            version = version or listed.get(candidate) or _metadata_version(candidate)
        if version is None:
            faults.append(f"{name} {words} (not installed)")
        elif not accepts(_numbers(version)):
            faults.append(f"{name} {words} (installed: {version})")
        else:
            continue
        remedies.append(f'"{install}"')
    if faults:
        raise ImportError(
            f"tfrl needs {', '.join(faults)}: run `pip install {' '.join(remedies)}`."
        )


def _listed_versions(names):
    """Name -> version of the packages with a `.dist-info` folder on sys.path; the first wins."""
    prefixes = {name.replace("-", "_") + "-": name for name in names}
    found = {}
    for folder in sys.path:
        try:
            entries = os.listdir(folder or ".")
        except OSError:  # a zip file, or an entry that does not exist
            continue
        for entry in entries:
            if entry.endswith(".dist-info"):
                stem = entry[: -len(".dist-info")].lower()
                name = prefixes.get(stem[: stem.find("-") + 1])
                if name is not None:
                    found.setdefault(name, stem[stem.find("-") + 1 :])
    return found


def _metadata_version(name):
    import importlib.metadata  # only here: see the docstring of the module

    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version):
    """(2, 15) of '2.15.1', '2.15' or '2.15.0rc1'; a part that is not a number ends it."""
    numbers = []
    for part in version.split(".")[:2]:
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)
