"""What `mistakes.txt` says to try is typed, and the message is gone."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from conftest import Run, photos_of_several_sizes

from runner import signals, train
from runner.sweep import start

TRANSCRIPT = (Path(__file__).parent / "mistakes.txt").read_text().split("$ python -m runner ")[1:]

FILLED = {
    "--config-dir FOLDER": "--config-dir mine", "FOLDER": "photos", "FILE": "people.csv", "RUN": "last", "VALUE": "1",
    "KEY": "seed", "model=OPTION": "model=cnn",
}  # fmt: skip
"""What is typed for the placeholders of a remedy."""

WORDS = r"[,;]? (which|if|without|quote|for a list|that|with that|such as|in place of|for curves) .*"
"""How the words begin that explain a remedy."""

REPLACED = (
    r".*(there is no such (key|flag|command)|is not KEY=VALUE|has no =|has no key|cannot be added|"
    r"takes no value|has no such|is not available|.*which is chosen)"
)
"""Problems of a word that is not typed beside its remedy."""

NEEDS_MORE = ("dataset.download=true", "dataset.root=FOLDER, which has the files")
"""Remedies that need a network, or files that are not here."""


def entries() -> Iterator[tuple[str, str, str]]:
    """Each line that is typed, the first line of a problem with it, and one of the remedies."""
    for text in TRANSCRIPT:
        line, _, said = text.strip().partition("\n")
        for problem in re.split(r"\n(?! )", said):
            first, *rest = problem.splitlines()
            tried = next((row.removeprefix("  try: ") for row in rest if row.startswith("  try: ")), "")
            place = re.search(r", in place of \S+", tried)
            for remedy in re.split(r",? or (?=\S+=)", tried):
                if typed(remedy) is not None:
                    yield line, first, remedy + (place[0] if place and place[0] not in remedy else "")


def typed(remedy: str) -> list[str] | None:
    """The words of a remedy as they are typed; None if it is none that can be."""
    option = re.sub(r"=OPTION with that key: (\w+).*", r"=\1", remedy)
    whole = re.sub(WORDS, "", option)
    for placeholder, value in FILLED.items():
        whole = re.sub(rf"(?<!\w){placeholder}", value, whole)
    try:
        words = shlex.split(whole.removeprefix("python -m runner "))
    except ValueError:
        return None
    is_line = whole.startswith(("leave out", "remove", "python -m runner", "-"))
    return words if words and remedy not in NEEDS_MORE and (is_line or all("=" in word for word in words)) else None


def applied(line: str, first: str, remedy: str) -> list[str]:
    """What a person types who reads that."""
    words, new, (key, _, what) = shlex.split(line), typed(remedy) or [], first.partition(": ")
    key = re.sub(r" \(jobs? .*\)$", "", key)
    if place := re.search(r"in place of (\S+)", remedy):
        words = [word for word in words if not word.startswith(place[1])]
    if remedy.startswith("python -m runner "):
        return new
    if new[0] in ("leave", "remove"):
        gone = new[-1] if new[-1] not in ("it", "out") else key
        return [word for word in words if gone not in (word, word.lstrip("+").partition("=")[0])]
    if re.match(REPLACED, what) and "OPTION with" not in remedy:
        rest = re.search(r"\(value '(.*)'\)", what)
        for wrong in ([*key.split(), *([rest[1]] if rest else [])], key.split()):
            at = [n for n in range(len(words)) if words[n : n + len(wrong)] == wrong]
            words = words[: at[0]] + words[at[0] + len(wrong) :] if at else words
    wrong_key = key.lstrip("+~") if re.match(REPLACED, what) and "OPTION with" not in remedy else None
    names = {word.lstrip("+~").partition("=")[0] for word in new if "=" in word} | {wrong_key}
    return [*(word for word in words if word.lstrip("+~").partition("=")[0] not in names or word in new), *new]


def is_said(first: str, said: str) -> bool:
    lines = said.replace("error: ", "").splitlines()
    return any(row == first or (first.endswith("…") and row.startswith(first.rstrip("… "))) for row in lines)


@pytest.mark.parametrize(("line", "first", "remedy"), list(entries()))
def test_a_remedy_takes_its_message_away(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, line: str, first: str, remedy: str
) -> None:
    words = applied(line, first, remedy)
    assert words != shlex.split(line)
    if any(word.endswith("=photos") for word in words):
        photos_of_several_sizes(20)
    Path("people.csv").write_text("age,risk\n" + "\n".join(f"{row},{row % 2}" for row in range(40)))
    Path("mine/model").mkdir(parents=True)
    for name in ("model/foo", "nothing"):
        Path(f"mine/{name}.yaml").write_text("defaults: [mlp]" if "foo" in name else "defaults: [config, _self_]")
    with monkeypatch.context() as patched:  # of what is wrong in the configuration alone the data need not be read
        for module in (train, start):
            patched.setattr(module, "prepare", _enough)
        run(*shlex.split(line))
        if is_said(first, capsys.readouterr().err):
            run(*words)
            assert not is_said(first, capsys.readouterr().err), words
            return
    run(*words, "check=only")
    assert not is_said(first, capsys.readouterr().err), words


def _enough(*_: Any) -> NoReturn:
    raise signals.Exit(0)


def test_most_remedies_are_typed() -> None:
    assert len(list(entries())) >= 100
