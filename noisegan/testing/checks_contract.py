"""Checks of what a strategy says about itself: classes, parameter schema, identity at the start, who trains it."""

from __future__ import annotations

from pydantic import ValidationError
from torch import nn

from noisegan.api import (
    FeatureInjector,
    ImageInjector,
    LatentInjector,
    LookAheadInjector,
    PenaltyInjector,
    Strategy,
    StyleInjector,
)
from noisegan.expression import parse_expression
from noisegan.manager import bind
from noisegan.testing.places import Place, places
from noisegan.testing.registry import ALL_POINTS, TENSOR_POINTS, check, require, same_bits, where

BASES: dict[str, tuple[type[nn.Module], ...]] = {
    "feature": (FeatureInjector, LookAheadInjector),
    "latent": (LatentInjector,),
    "style": (StyleInjector,),
    "image": (ImageInjector,),
    "penalty": (PenaltyInjector,),
}


@check("place", ALL_POINTS)
def builds(place: Place) -> None:
    """The factory builds a new injector of the right class for every site."""
    with where("building it"):
        first, second = place.build(), place.build()
    bases = BASES[place.point]
    expected = " or ".join(base.__name__ for base in bases)
    require(isinstance(first, bases), f"the factory returned a {type(first).__name__}, expected a {expected}")
    require(first is not second, "the factory returned the same injector twice, expected a new one each time")


@check("strategy")
def schema_is_sound(strategy: Strategy) -> None:
    """The parameter schema is frozen, refuses unknown keys, and gives each field help and a valid default."""
    schema = strategy.spec.params
    require(bool(schema.model_config.get("frozen")), f"{schema.__name__} is not frozen; derive it from api.Params")
    refuses = schema.model_config.get("extra") == "forbid"
    require(refuses, f"{schema.__name__} accepts unknown keys; derive it from api.Params")
    for name, field in schema.model_fields.items():
        require(not field.is_required(), f"parameter {name} has no default; give one in Field(...)")
        require(bool(field.description), f"parameter {name} has no help; give description= in Field(...)")
    try:
        schema.model_validate(schema().model_dump())
    except ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(map(str, problem["loc"]))
        require(False, f"the default {key}={problem['input']!r} is refused by its own schema: {problem['msg']}")


@check("strategy")
def params_survive_text(strategy: Strategy) -> None:
    """Parameters survive JSON (checkpoints) and the text of the strategy (options, reports)."""
    params, schema = strategy.params, strategy.spec.params
    with where("writing the parameters as JSON and reading them back"):
        again = schema.model_validate_json(params.model_dump_json())
    require(again == params, f"parameters {params!r} come back from JSON as {again!r}")
    text = str(strategy)
    with where(f"reading the expression {text!r}"):
        terms = parse_expression(text)
        require(len(terms) == 1 and terms[0][0] == strategy.name, f"the expression {text!r} reads back as {terms!r}")
        back = bind(strategy.spec, terms[0][1])
    require(back.params == params, f"parameters {params!r} come back from the expression {text!r} as {back.params!r}")


@check("strategy")
def identity_is_told_truly(strategy: Strategy) -> None:
    """identity_at_init is True where default parameters change nothing at the start, and False where they do."""
    default = Strategy(strategy.spec, strategy.spec.params())
    changed: list[str] = []
    tried = 0
    for point, found in places(default, seed=0, device="cpu").items():
        for place in found if point in TENSOR_POINTS else []:
            injector = place.build()
            inputs = place.inputs(injector)
            with where(f"forward of {place}"):
                output = place.call(injector, inputs)
            tried += 1
            if not same_bits(output, next(iter(inputs.values()))):
                changed.append(str(place))
    if not tried:  # a penalty changes no tensor
        return
    if strategy.spec.identity_at_init:
        require(not changed, f"identity_at_init is True, but default parameters change the {', '.join(changed)}")
    else:
        require(bool(changed), "identity_at_init is False, but default parameters change nothing; say True")


@check("place", ("image",))
def says_who_trains_it(place: Place) -> None:
    """trains_with is G, D or against D for an image injector with parameters, and none for one without."""
    injector = place.build()
    said, count = injector.trains_with, len(list(injector.parameters()))
    known = ("G", "D", "against D", "none")
    require(said in known, f"trains_with is {said!r}, expected 'G', 'D', 'against D' or 'none'")
    require(
        (said == "none") == (count == 0),
        f"trains_with is {said!r} with {count} parameters; 'none' is for injectors without parameters",
    )
