"""What a check has found."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Finding:
    rule: str  # ENUM_VALUE_PREFIX
    element: str  # its full name: fresco.v1.Model.State
    place: str  # file:line
    message: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}: {self.element}: {self.message}"
