"""``runner diff RUN RUN``: how two runs differ, and what each reached."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from runner import folder, terminal
from runner.errors import cut
from runner.keys import text
from runner.result import from_json
from runner.runs import read_config, read_json, read_result
from runner.table import Table


def main(arguments: Sequence[str]) -> int:
    """Run the command.

    Raises:
        InputError: these are not two runs that can be read.
    """
    a, b = parse(arguments)
    states = [_result(run_dir).get("state", "no result.json") for run_dir in (a, b)]
    head = [f"a  {a} ({states[0]})", f"b  {b} ({states[1]})"]
    tables = [configuration(a, b), environment_differences(a, b), figures(a, b)]
    terminal.console.print("\n".join(head))
    for table in tables:
        said = terminal.drawn(table) if table.rows else "no differences"
        terminal.console.print(f"\n{table.title}\n{said}")
    return 0


def parse(arguments: Sequence[str]) -> tuple[Path, Path]:
    """Return the folders of the two runs.

    Raises:
        InputError: they are not two, or not of runs.
    """
    said = "Show how two runs differ: in their configurations, key by key, in their environments, and in their metrics."
    parser = terminal.Parser("diff", said)
    for name in ("a", "b"):
        parser.add_argument(name, metavar="RUN", help="the folder of a run, or last for the newest one")
    found = parser.parse_args(list(arguments))
    return folder.find(found.a, "diff", alone=True), folder.find(found.b, "diff", alone=True)


def configuration(a: Path, b: Path) -> Table:
    """Every key whose values are not the same, of facts, too."""
    ours, theirs = dict(_values(_config(a), "")), dict(_values(_config(b), ""))
    groups = list(dict.fromkeys(key.partition(".")[0] for key in [*ours, *theirs]))
    names = sorted(dict.fromkeys([*ours, *theirs]), key=lambda key: groups.index(key.partition(".")[0]))
    rows = [
        [cut(key), *(cut(text(values[key])) if key in values else None for values in (ours, theirs))]
        for key in names
        if key not in ours or key not in theirs or ours[key] != theirs[key]
    ]
    return Table("Configuration", ["key", "a", "b"], rows)


def _config(run_dir: Path) -> dict[str, Any]:
    return {key: value for key, value in read_config(run_dir).items() if key != "interpolations"}


def _values(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Every value of a tree by its dotted key, with numbers for what is in a list of groups."""
    has_groups = isinstance(tree, list) and any(isinstance(child, dict) for child in tree)
    children = tree.items() if isinstance(tree, dict) else enumerate(tree) if has_groups else ()
    for name, child in children:
        yield from _values(child, f"{path}.{name}" if path else str(name))
    if not children:
        yield path, tree


def environment_differences(a: Path, b: Path) -> Table:
    """In what two runs differ beside their configurations: versions, device, threads, commit, data and split.

    Args:
        a, b: their folders.

    Raises:
        RunFolderError: what is in them cannot be read.
    """
    ours, theirs = _environment(a), _environment(b)
    names = [name for name in dict.fromkeys([*ours, *theirs]) if ours.get(name) != theirs.get(name)]
    return Table(
        "Environment",
        ["what", "a", "b"],
        [[cut(name), *(cut(said[name]) if name in said else None for said in (ours, theirs))] for name in names],
    )


def _environment(run_dir: Path) -> dict[str, str]:
    result = _result(run_dir)
    said = {str(name): str(version) for name, version in (result.get("versions") or {}).items()}
    said |= {name: str(result[name]) for name in ("device", "threads") if name in result}
    git = result.get("git")
    said["git commit"] = "none" if not git else str(git.get("commit")) + ("" if git.get("clean") else ", with changes")
    # The table says more of some: which card it was, and of how many cores.
    said |= {str(row.get("what")): str(row.get("value")) for row in (result.get("tables") or {}).get("environment", [])}
    split = read_json(run_dir / "split.json") if (run_dir / "split.json").exists() else {}
    return said | {name: str(split[key])[:12] for name, key in (("data", "data"), ("split", "hash")) if key in split}


def _result(run_dir: Path) -> dict[str, Any]:
    return read_result(run_dir) if (run_dir / "result.json").exists() else {}


def figures(a: Path, b: Path) -> Table:
    """What both reached, and by how much the second one is above the first. 0.0000 is no difference at all."""
    ours, theirs = (_figures(_result(run_dir)) for run_dir in (a, b))
    rows = [
        [name, ours.get(name), theirs.get(name), theirs[name] - ours[name] if name in ours and name in theirs else None]
        for name in dict.fromkeys([*ours, *theirs])
    ]
    return Table("Metrics", ["metric", "a", "b", "b − a"], rows)


def _figures(result: dict[str, Any]) -> dict[str, float]:
    found = {tag: from_json(value) for tag, value in (result.get("metrics") or {}).items()}
    return found | {name: result[name] for name in ("best_epoch", "seconds") if result.get(name) is not None}
