"""Settings of media_store, from the environment (`DARKROOM_<FIELD>`); read once by `server`."""

from dataclasses import dataclass

from darkroom import settings


@dataclass(frozen=True, kw_only=True)
class Config(settings.Room):
    """What media_store needs beyond every room's settings."""

    database_url: str = settings.field(doc="postgresql:// URL of the platform's database", secret=True)
    billing_meter_address: str = settings.field(doc="host:port of billing_meter, which verifies API keys")
    blob_url: str = settings.field(doc="where bytes lie: file:///…, s3://bucket/prefix, gs://…, az://…")
    http_address: str = settings.field(
        "127.0.0.1:0", doc="host:port that answers signed URLs; port 0 takes a free one", low=1
    )
    public_url: str = settings.field(
        "", doc="how clients reach http_address, https://media.example.com; empty: directly"
    )
    spool_dir: str = settings.field("", doc="directory for uploads under way; empty means the system's temporary one")
    media_bytes_max: int = settings.field(1 << 30, doc="greatest piece of media, bytes", low=1, high=1 << 30)
    image_pixels_max: int = settings.field(1 << 26, doc="most pixels an image may decode to", low=1, high=1 << 30)
    uploads_max: int = settings.field(32, doc="uploads under way at once", low=1, high=1024)
    chunk_timeout_s: float = settings.field(30.0, doc="how long to wait for an upload's next chunk", low=0.1, high=600)
    retention_default_s: float = settings.field(
        0.0, doc="kept so long if the caller does not say; 0: for ever", low=0, high=315_360_000
    )
    sweep_interval_s: float = settings.field(60.0, doc="between two sweeps of what has expired", low=0.01, high=86_400)
    orphan_age_s: float = settings.field(86_400.0, doc="age at which bytes that nothing refers to go", low=0, high=1e7)

    def __post_init__(self) -> None:
        super().__post_init__()
        on_disk = self.blob_url.startswith(("file:", "memory:"))
        if on_disk and not self.public_url and not settings.is_loopback(self.http_address):
            raise settings.SettingsError(
                "DARKROOM_PUBLIC_URL must say how clients reach DARKROOM_HTTP_ADDRESS, which is not on loopback"
            )
