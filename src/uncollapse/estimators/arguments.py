"""The arguments of the estimators, with what each accepts, so that every estimator says it in the
same words."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, InstanceOf

from uncollapse._utils.parameters import MAX_LAYERS, Count, NotBool, PositiveFloat
from uncollapse.families import Family
from uncollapse.maps import MAX_CONSTANT

_Constant = Annotated[float, NotBool, Field(ge=0, le=MAX_CONSTANT, allow_inf_nan=False)]
_Seed = Annotated[int, NotBool, Field(ge=0, lt=2**32)]

Constants = Annotated[
    _Constant | tuple[_Constant, ...] | Literal["auto"] | None,
    Field(
        description="a number from 0 to 1e6 for every map, one for each, None for an ordinary "
        "decoder, or 'auto'"
    ),
]
Nats = Annotated[PositiveFloat | None, Field(description="a positive number of nats, or None")]
FamilyLike = Annotated[
    str | dict[str, dict[str, Any]] | InstanceOf[Family],
    Field(
        description="the name of a family, or one with its arguments, such as {gaussian: {scale: "
        "1.0}}"
    ),
]
ObjectiveLike = Annotated[
    str | dict[str, dict[str, Any]] | None,
    Field(
        description="the name of an objective, or one with its arguments, such as {free_bits: "
        "{nats: 0.5}}, or None"
    ),
]
StrategyLike = Annotated[
    str | dict[str, dict[str, Any]] | None,
    Field(
        description="the name of a strategy, or one with its arguments, such as {lagging: {every: "
        "15}}, or None"
    ),
]
EmbeddingName = Annotated[
    Literal["principal", "padding", "learned"],
    Field(description="'principal', 'padding' or 'learned'"),
]
PotentialName = Annotated[Literal["icnn", "ridge"], Field(description="'icnn' or 'ridge'")]
UpperConstants = Annotated[
    PositiveFloat | tuple[PositiveFloat, ...] | None,
    Field(description="a positive number for every map, one for each, or None"),
]
Dimensions = Annotated[
    tuple[Count, ...],
    Field(
        max_length=MAX_LAYERS, description="a list of dimensions, which may be empty, at most 100"
    ),
]
EncoderWidths = Annotated[
    Annotated[tuple[Count, ...], Field(min_length=1, max_length=MAX_LAYERS)] | None,
    Field(description="a list of one or more positive widths, at most 100, or None"),
]
EncoderDimension = Annotated[Count | None, Field(description="a positive integer, or None")]
PosteriorName = Annotated[
    Literal["gaussian", "realnvp"], Field(description="'gaussian' or 'realnvp'")
]
Components = Annotated[
    int, NotBool, Field(ge=2, le=10_000, description="an integer from 2 to 10,000")
]
Layers = Annotated[int, NotBool, Field(ge=1, le=MAX_LAYERS, description="an integer from 1 to 100")]
PriorName = Annotated[
    Literal["separated", "unit", "learned", "full"],
    Field(description="one of 'separated', 'unit', 'learned', 'full'"),
]
SequencePosteriorName = Annotated[
    Literal["lstm", "pooled-lstm"], Field(description="'lstm' or 'pooled-lstm'")
]
ContextName = Annotated[Literal["joint", "additive"], Field(description="'joint' or 'additive'")]
LevelName = Annotated[Literal["word", "character"], Field(description="'word' or 'character'")]
Inference = Annotated[
    Literal["marginal", "enumerate"], Field(description="'marginal' or 'enumerate'")
]
Epochs = Annotated[
    Annotated[int, NotBool, Field(ge=0, lt=2**31)] | Literal["auto"],
    Field(description="an integer >= 0, or 'auto'"),
]
RandomState = Annotated[
    _Seed | InstanceOf[np.random.RandomState] | None,
    Field(description="a seed (an integer from 0 to 2^32 - 1), a RandomState, or None"),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda", "mps"], Field(description="one of auto, cpu, cuda, mps")
]
Devices = Annotated[
    Count | Literal["auto"], Field(description="a positive number of devices, or 'auto'")
]
ParallelStrategy = Annotated[
    Literal["auto", "ddp", "ddp_find_unused_parameters_true"],
    Field(description="one of auto, ddp, ddp_find_unused_parameters_true"),
]
Precision = Annotated[Literal["float32", "bfloat16"], Field(description="float32 or bfloat16")]
Flag = Annotated[bool, Field(strict=True, description="true or false")]
