"""Bad input for the stores of adapters and media."""

import hashlib
from typing import Any

from darkroom import ids
from darkroom.api.lora_store.v1 import lora_service_pb2 as lora_pb
from darkroom.api.media_store.v1 import media_service_pb2 as media_pb
from tests.journeys import load
from tests.journeys.bad import TENANT, Bad, one, seconds

SHA256 = hashlib.sha256(b"").hexdigest()
BOMB = b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00\x01\x00\x00" * 2 + b"\x08\x02\x00\x00\x00" + b"\x00" * 64


def push(field: str, chunk: bytes | None = None, **header: Any) -> Bad:
    good = {"name": "n", "base_model": load.MODEL, "sha256": SHA256, "size_bytes": 1}
    if chunk is not None:
        good |= {"sha256": hashlib.sha256(chunk).hexdigest(), "size_bytes": len(chunk)}
    parts = [lora_pb.PushLoraRequest(header=lora_pb.PushLoraHeader(**{**good, **header}))]
    parts += [lora_pb.PushLoraRequest(chunk=chunk)] if chunk is not None else []
    return Bad("tenant", "LoraService/PushLora", tuple(parts), field)


def put(field: str, chunk: bytes = b"GIF89a of a kind", **header: Any) -> Bad:
    good = {"sha256": hashlib.sha256(chunk).hexdigest(), "size_bytes": len(chunk)}
    parts = (
        media_pb.PutMediaRequest(header=media_pb.PutMediaHeader(**{**good, **header})),
        media_pb.PutMediaRequest(chunk=chunk),
    )
    return Bad("tenant", "MediaService/PutMedia", parts, field)


TABLE = [
    # adapters
    push("header.name", name="No Name"),
    push("header.base_model", base_model="no-such-model"),
    push("header.sha256", sha256="AB" * 32),
    push("header.size_bytes", size_bytes=0),
    push("header.size_bytes", size_bytes=2**62),
    push("header.sha256", b"other bytes", sha256="0" * 64),
    push("header.size_bytes", b"short", size_bytes=100),
    push("chunk", b"\x80\x04\x95pickle of a kind"),
    Bad("tenant", "LoraService/PushLora", (lora_pb.PushLoraRequest(chunk=b"first"),), "header"),
    Bad("tenant", "LoraService/PushLora", (), "header"),
    one("tenant", "LoraService/GetLora", lora_pb.GetLoraRequest(adapter_id="lora_"), "adapter_id"),
    one("tenant", "LoraService/PullLora", lora_pb.PullLoraRequest(), "adapter_id"),
    one("tenant", "LoraService/DeleteLora", lora_pb.DeleteLoraRequest(adapter_id=TENANT), "adapter_id"),
    one("tenant", "LoraService/ListLoras", lora_pb.ListLorasRequest(page_size=-5), "page_size"),
    one("tenant", "LoraService/ListLoras", lora_pb.ListLorasRequest(base_model="ß"), "base_model"),
    one("tenant", "LoraService/ListLoras", lora_pb.ListLorasRequest(page_token="e30.forged"), "page_token"),
    # media
    put("header.sha256", sha256="not hex"),
    put("header.size_bytes", size_bytes=-1),
    put("header.retention", retention=seconds(1)),
    put("header.retention", retention=seconds(2**40)),
    put("chunk", b"<svg onload=alert(1)>"),
    put("chunk", BOMB),
    Bad("tenant", "MediaService/PutMedia", (media_pb.PutMediaRequest(chunk=b"first"),), "header"),
    one("tenant", "MediaService/GetMedia", media_pb.GetMediaRequest(media_id="../../x"), "media_id"),
    one("tenant", "MediaService/ReadMedia", media_pb.ReadMediaRequest(), "media_id"),
    one(
        "tenant",
        "MediaService/SignMediaUrl",
        media_pb.SignMediaUrlRequest(media_id=ids.new("med"), expires_in=seconds(0)),
        "expires_in",
    ),
    one("tenant", "MediaService/DeleteMedia", media_pb.DeleteMediaRequest(media_id="med_x"), "media_id"),
]
