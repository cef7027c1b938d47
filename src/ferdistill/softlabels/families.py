"""What a family is made of, as numbers: each teacher's weight, and what a run of it is recorded as."""

from ..params import Family, FamilySource, Params


def resolved_weight(source: FamilySource, lambda_: float) -> float:
    """The weight of a source in its family as a number, once lambda is known."""
    if source.weight == "lambda":
        return lambda_
    return 1 - lambda_ if source.weight == "1 - lambda" else float(source.weight)


def has_lambda(family: Family) -> bool:
    """Whether lambda weighs the sources of a family."""
    return any(isinstance(source.weight, str) for source in family.sources)


def mixture(family: Family, lambda_: float) -> dict[str, float]:
    """Each teacher's weight in the family as a whole, by its name; those that count nothing are left out.

    In mode kd with probabilities fused at the temperature, a student's loss depends on nothing else but the teachers'
    own temperatures, if the family has some.
    """
    found = dict.fromkeys((name for source in family.sources for name in source.teachers), 0.0)
    for source in family.sources:
        for name, weight in source.teachers.items():
            found[name] += resolved_weight(source, lambda_) * weight
    return {name: weight for name, weight in found.items() if weight > 0}


def distils(params: Params) -> bool:
    """False for the cross-entropy baseline: `family: none` or `mode: none`."""
    return params.mode != "none" and bool(params.family_.sources)


def run_family(params: Params) -> str:
    """The family as recorded: the baseline is `none` whichever of the two names asked for it."""
    return params.family if distils(params) else "none"


def run_mode(params: Params) -> str:
    """The mode as recorded."""
    return params.mode if distils(params) else "none"
