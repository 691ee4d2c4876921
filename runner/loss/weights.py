"""Class weights, from the train part alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from runner.errors import ConfigError, DataError, Problem, nearest

Rule = str | Sequence[float] | Mapping[str, float] | None


def class_weights(
    rule: Rule, counts: Mapping[str, int], beta: float = 0.999, key: str = "loss.weight"
) -> list[float] | None:
    """The weight of each class, from the configuration's ``loss.weight``.

    Args:
        rule: one of

            - ``balanced``: N / (C · n_c), as scikit-learn has it (King and Zeng, "Logistic Regression in Rare Events
              Data", 2001);
            - ``effective_number``: (1 − β) / (1 − β^n_c), scaled to a sum of C (Cui et al., "Class-Balanced Loss Based
              on Effective Number of Samples", 2019, section 3 and eq. 2);
            - one number per class, in the order of the classes or by name; or None for no weights.
        counts: how many samples of the *train part*, and of nothing else, each class has.
        beta: β of the effective number, below 1.
        key: where the rule stands in the configuration.

    Raises:
        ConfigError: not a number for each class, or one that is negative or no number.
        DataError: a class without a train sample, under a rule that divides by its count.
    """
    if rule is None:
        return None
    if not isinstance(rule, str):
        return _given(rule, list(counts), key, "null, balanced, effective_number")
    if rule not in ("balanced", "effective_number"):
        remedy = nearest(rule, ("balanced", "effective_number"), f"{key}=")
        allowed = "null, balanced, effective_number, or one number per class"
        raise ConfigError(Problem(key, f"{rule!r} is not allowed", allowed, remedy))
    _all_present(counts, rule, key)
    n = np.array(list(counts.values()), dtype=np.float64)
    inverse = 1 / n if rule == "balanced" else (1 - beta) / -np.expm1(n * np.log(beta)) if beta else np.ones_like(n)
    weights: list[float] = (inverse * (n.sum() / len(n) if rule == "balanced" else len(n) / inverse.sum())).tolist()
    return weights


def positive_weights(
    rule: Rule, counts: Mapping[str, int], known: Sequence[int], key: str = "loss.pos_weight"
) -> list[float] | None:
    """The weight of each class's positive samples, from ``loss.pos_weight``: for several classes per sample.

    Args:
        rule: ``balanced``: negatives / positives, as `torch.nn.BCEWithLogitsLoss` advises; or as `class_weights`.
        counts: the positive samples of each class in the train part.
        known: for each class, how many samples of the train part say whether they are of it.
        key: where the rule stands in the configuration.

    Raises:
        as `class_weights`.
    """
    if rule is None:
        return None
    if isinstance(rule, str):
        if rule != "balanced":
            raise ConfigError(Problem(key, f"{rule!r} is not allowed", "null, balanced, or one number per class"))
        _all_present(counts, rule, key)
        return [(total - count) / count for total, count in zip(known, counts.values(), strict=True)]
    return _given(rule, list(counts), key, "null, balanced")


def _all_present(counts: Mapping[str, int], rule: str, key: str) -> None:
    absent = [name for name, count in counts.items() if count == 0]
    if absent:
        what = f"{rule!r} cannot be computed for classes without a train sample: {', '.join(absent)}"
        raise DataError(Problem(key, what, remedy=f'{key}=null, or one number per class, as in "{key}=[1,1,2]"'))


def _given(rule: Sequence[float] | Mapping[str, float], classes: Sequence[str], key: str, rules: str) -> list[float]:
    numbers = dict(zip(classes, rule, strict=False)) if not isinstance(rule, Mapping) else {}
    if isinstance(rule, Mapping):
        numbers = {str(name): number for name, number in rule.items()}
        unknown = [name for name in numbers if name not in classes]
        if unknown:
            what = f"there is no class {unknown[0]!r}"
            raise ConfigError(Problem(key, what, ", ".join(classes), nearest(unknown[0], classes)))
    missing = [name for name in classes if name not in numbers]
    finite = all(0 <= number < float("inf") for number in numbers.values())
    if missing or len(rule) != len(classes) or not finite or not any(numbers.values()):
        given = dict(rule) if isinstance(rule, Mapping) else list(rule)
        allowed = f"{rules}, {len(classes)} numbers >= 0 (one per class, not all 0), or {{NAME: NUMBER}}"
        raise ConfigError(Problem(key, f"{given} does not give a weight for each class", allowed))
    return [float(numbers[name]) for name in classes]
