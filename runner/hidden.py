"""Files that hide a module which a run needs: Python looks in the working directory first, where `torch.py` is torch.

Imports what is there before a file could hide it, and nothing else.
"""

import os
import sys

OF_PYTHON = """
argparse array ast asyncio base64 binascii bisect bz2 cProfile calendar cmath collections colorsys concurrent
configparser contextlib contextvars copy copyreg csv ctypes dataclasses datetime decimal difflib dis email encodings
enum fcntl fileinput fnmatch fractions functools getopt getpass gettext glob graphlib grp gzip hashlib heapq hmac html
http importlib inspect ipaddress json keyword linecache locale logging lzma math mmap modulefinder multiprocessing
numbers opcode operator pathlib pickle pickletools pkgutil platform plistlib pprint profile pstats pydoc pyexpat queue
quopri random re reprlib resource secrets select selectors shlex shutil signal socket socketserver ssl statistics
string struct subprocess sysconfig tarfile tempfile termios textwrap threading timeit token tokenize tomllib traceback
types typing unicodedata unittest urllib uuid warnings weakref xml zipfile zlib zoneinfo
"""

INSTALLED = """
PIL absl antlr4 contourpy cycler dateutil filelock fsspec functorch google hydra jinja2 joblib kiwisolver markupsafe
matplotlib mpl_toolkits mpmath networkx numpy omegaconf packaging pandas platformdirs pygments pyparsing rich scipy
six sklearn sympy tensorboard threadpoolctl torch torchgen torchvision triton typing_extensions yaml
"""

NEEDED = frozenset((OF_PYTHON + INSTALLED).split())
"""Modules that training, or what is done with what was trained, imports, but for those that are built in. Others may be
hidden: nobody misses them."""


def refuse(place: str = "") -> None:
    """Check that nothing in a folder would be imported in place of a module that a run needs.

    Args:
        place: a folder in which Python is about to look first; by default the working directory, if it does already, as
            under ``python -m``.

    Raises:
        SystemExit: with status 2, when it was said.
    """
    if not place and not _is_first():
        return
    named = _named(place, NEEDED).items()
    found = [path for name, path in named if not _is_loaded(name, place) and _is_elsewhere(name, place)]
    for number, path in enumerate(found):
        what = f"would be imported in place of the module {_stem(path)}, which runner needs"
        print(f"{'' if number else 'error: '}{path}: {what}\n  try: {renamed(path)}", file=sys.stderr)
    if found:
        raise SystemExit(2)


def beside(name: str) -> str:
    """Return what of the user's has the name of a module that was imported from elsewhere; or nothing."""
    found = [_named(place, frozenset([name])).get(name, "") for place in sys.path[:2] if _is_loaded(name, place)]
    return next(filter(None, found), "")


def renamed(path: str) -> str:
    """Return what to type to have a file out of the way."""
    return f"mv {path} {os.path.join(os.path.dirname(path), f'my_{os.path.basename(path)}')}"


def _is_first() -> bool:
    here, python = os.path.realpath(""), os.path.dirname(os.__file__)
    before = sys.path[: sys.path.index(python)] if python in sys.path else sys.path[:1]
    return here in map(os.path.realpath, before)


def _named(place: str, names: frozenset[str]) -> dict[str, str]:
    """Return the paths of the files and packages in a folder that have these names, by name."""
    found = {}
    try:
        place = os.path.relpath(place or ".")
        there = sorted(os.listdir(place))
    except OSError:  # it is gone, or not to be read
        return {}
    for file in there:
        path = os.path.normpath(os.path.join(place, file))
        is_package = os.path.isfile(os.path.join(path, "__init__.py"))
        if _stem(path) in names and (is_package or file.partition(".")[2] == "py" or file.endswith(".so")):
            found[_stem(path)] = path
    return found


def _stem(path: str) -> str:
    return os.path.basename(path).partition(".")[0]


def _is_loaded(name: str, place: str) -> bool:
    """Return whether a module was imported, and from elsewhere."""
    file = getattr(sys.modules.get(name), "__file__", None) or os.devnull
    return name in sys.modules and not os.path.realpath(file).startswith(os.path.join(os.path.realpath(place), ""))


def _is_elsewhere(name: str, place: str) -> bool:
    """Return whether there is a module of that name to be hidden."""
    others = [other for other in sys.path if os.path.realpath(other) != os.path.realpath(place)]
    ends = (os.path.join(name, "__init__.py"), f"{name}.py")
    return name in sys.stdlib_module_names or any(os.path.exists(os.path.join(o, end)) for o in others for end in ends)
