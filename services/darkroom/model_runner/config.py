"""The model runner's settings, each from the environment variable `DARKROOM_<FIELD>`."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from darkroom import settings


@dataclass(frozen=True, kw_only=True)
class Config(settings.Room):
    """Everything that can be chosen about one runner."""

    scheduler_address: str = settings.field(doc="host:port of any scheduler replica", low=1)
    lora_store_address: str = settings.field(doc="host:port of lora_store", low=1)
    media_store_address: str = settings.field(doc="host:port of media_store", low=1)
    catalog_dir: Path = settings.field(Path(__file__).parents[1] / "models", doc="directory of the models' YAML files")
    models: tuple[str, ...] = settings.field((), doc="models it may load, by commas; empty means all whose files are here")
    preload: tuple[str, ...] = settings.field((), doc="models loaded before it says ready, by commas")
    node_name: str = settings.field("", doc="name of the machine; empty means the host's name")
    advertise_address: str = settings.field("", doc="host:port at which schedulers reach it; empty means listen_address")
    register_interval_s: float = settings.field(1.0, doc="how often it registers", low=0.05, high=60)
    heartbeat_interval_s: float = settings.field(0.5, doc="how often it tells its state", low=0.02, high=60)
    progress_interval_s: float = settings.field(0.1, doc="least time between two progress events of an attempt", low=0, high=60)

    # the accelerator
    device: str = settings.field("auto", doc="auto, cpu, cuda:<index>, or nvml:<index> (samples that device)", low=1)
    dtype: str = settings.field("", doc="float32, float16 or bfloat16; empty: bfloat16 on CUDA, float32 on the CPU")
    threads: int = settings.field(0, doc="CPU threads of one tensor operation; 0 means torch's own choice", low=0, high=1024)
    batch_rows_max: int = settings.field(8, doc="images in one forward of the denoiser", low=1, high=1024)
    rows_live_max: int = settings.field(32, doc="images that hold a state on the device at once", low=1, high=65536)
    memory_bytes_max: int = settings.field(0, doc="for resident models; 0 means 0.8 of the device's memory", low=0)
    adapters_resident_max: int = settings.field(32, doc="LoRAs kept on the device for each model", low=1, high=65536)

    # adapters on this machine
    cache_dir: Path = settings.field(Path(tempfile.gettempdir()) / "darkroom-cache", doc="directory of fetched adapters")
    cache_bytes_max: int = settings.field(4 << 30, doc="adapters kept there; the longest unused go first", low=1 << 20)
