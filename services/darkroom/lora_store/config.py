"""Settings of lora_store, from the environment (`DARKROOM_<FIELD>`); read once by `server`."""

from dataclasses import dataclass

from darkroom import settings


@dataclass(frozen=True, kw_only=True)
class Config(settings.Room):
    """What lora_store needs beyond every room's settings."""

    database_url: str = settings.field(doc="postgresql:// URL of the platform's database", secret=True)
    billing_meter_address: str = settings.field(doc="host:port of billing_meter, which verifies API keys")
    blob_url: str = settings.field(doc="where bytes lie: file:///…, s3://bucket/prefix, gs://…, az://…")
    catalog_dir: str = settings.field(
        "", doc="directory of the catalogue; empty means the one that comes with Darkroom"
    )
    spool_dir: str = settings.field("", doc="directory for uploads under way; empty means the system's temporary one")
    lora_bytes_max: int = settings.field(1 << 31, doc="greatest adapter file, bytes", low=1, high=1 << 31)
    uploads_max: int = settings.field(16, doc="uploads under way at once", low=1, high=1024)
    chunk_timeout_s: float = settings.field(30.0, doc="how long to wait for an upload's next chunk", low=0.1, high=600)
    sweep_interval_s: float = settings.field(300.0, doc="between two sweeps of dead uploads", low=0.01, high=86_400)
    orphan_age_s: float = settings.field(86_400.0, doc="age at which bytes that nothing refers to go", low=0, high=1e7)
