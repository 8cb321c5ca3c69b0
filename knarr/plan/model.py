"""What all parts of a plan share: nothing unknown, nothing converted, nothing changed after loading."""

from pydantic import BaseModel, ConfigDict


class Model(BaseModel):
    """What all parts of a plan share: unknown keys are errors, values do not change after loading.

    Strict: '4' is not a number and 1 is not true, so that a plan says what it means.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        str_strip_whitespace=True,
        populate_by_name=True,
        allow_inf_nan=False,
    )
