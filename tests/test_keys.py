"""What is read as YAML or JSON: no more of it than anybody would write."""

from __future__ import annotations

import time

import pytest
import yaml

from runner.keys import DEPTH, Unusable, check_yaml, from_yaml, nesting, parse_json

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)
)
MERGED = "a: &a {p: 1}\nb0: &b0 {<<: *a}\n" + "".join(
    f"b{n}: &b{n} {{<<: [{','.join([f'*b{n - 1}'] * 9)}]}}\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (BOMB, "more than 1,000,000 values"),
        (MERGED, "more than 1,000,000 values"),
        ("[" + "[]," * 600_000 + "[]]", "more than 1,000,000 values"),
        ("a: &a [*a]", "a value that contains itself"),
        ("a: &a {b: {c: *a}}", "a value that contains itself"),
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), "nested more than 30 levels deep"),
        ("a0: &a0 [1]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 99)), "nested more than 30 levels"),
        ("a: " + "${b:" * 200 + "}" * 200, "nested more than 30 levels deep"),
        ("a: " + "9" * 1_001, "a whole number of more than 1,000 digits"),
        ("a: 0x" + "f" * 5_000, "a whole number of more than 1,000 digits"),
    ],
)
def test_a_text_that_stands_for_too_much_is_refused_at_once(text: str, said: str) -> None:
    start = time.monotonic()
    with pytest.raises(Unusable) as caught:
        from_yaml(text)
    assert time.monotonic() - start < 20
    assert str(caught.value).startswith(said)
    with pytest.raises(Unusable, match=r'in "x\.yaml", line'):
        check_yaml(text, "x.yaml")


def test_what_anybody_writes_is_read_as_before() -> None:
    text = "a: &a {b: [1, 2.5, x, null, true, 2020-01-02]}\nc: {<<: *a, d: [*a, *a]}\n" + "e: " + "[" * 20 + "]" * 20
    assert from_yaml(text) == yaml.safe_load(text)
    assert from_yaml("") is None
    assert from_yaml("a: '" + "${a} " * 100 + "'") == {"a": "${a} " * 100}
    check_yaml(text, "x.yaml")
    check_yaml("a: [not, YAML", "x.yaml")  # of which whoever reads it says more


@pytest.mark.parametrize("text", ["!!bool x", "!!int ''", "!!timestamp x", "a: " + "1:" * 300 + "1.0"])
def test_a_value_that_is_none_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match="has a value that is none"):
        from_yaml(text)


def test_json_that_is_nested_too_deeply_is_a_value_error() -> None:
    for text in ("[" * 100_000, '{"a":' * 100_000, "[" * 100_000 + "]" * 100_000):
        with pytest.raises(ValueError, match="nested too deeply"):
            parse_json(text)
    assert parse_json('{"a": [1]}') == {"a": [1]}


@pytest.mark.parametrize(
    ("text", "depth"), [("", 0), ("a", 0), ("[]", 1), ("[[]]{}", 2), ("{b:" * 5, 5), ("]]][", 1), ("${a:${b}}", 2)]
)
def test_how_deeply_brackets_are_nested(text: str, depth: int) -> None:
    assert nesting(text) == depth
