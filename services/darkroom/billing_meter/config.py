"""The meter's settings.

The environment comes in through `settings.load(Config)`; `server.serve` takes the filled dataclass.
"""

import dataclasses
from pathlib import Path

from darkroom import settings
from darkroom.billing_meter import domain


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config(settings.Room):
    """All that `darkroom serve billing_meter` reads."""

    database_url: str = settings.field(doc="postgresql:// address of the database", low=1, secret=True)
    database_connections_max: int = settings.field(10, doc="connections of this replica to PostgreSQL", low=1, high=200)
    catalog_dir: Path = settings.field(Path(__file__).parents[1] / "models", doc="directory of the models' YAML files")
    operator_key: str = settings.field(
        "",
        doc="an operator's API key to accept from the start: dk_<12 hex digits>_<64 hex digits>; empty means none",
        secret=True,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.operator_key and not domain.API_KEY.fullmatch(self.operator_key):
            raise settings.SettingsError(
                "DARKROOM_OPERATOR_KEY must be dk_<12 hex digits>_<64 hex digits>, in lower case"
            )
