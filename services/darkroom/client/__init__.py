"""The typed client of the platform, for other services and for the command.

`AsyncClient` speaks asyncio, `Client` the same verbs without it. Deadlines, retries of idempotent calls, keepalive and traces are
`rpc`'s; every refusal is a `darkroom.errors.DarkroomError` with its fields.

    with client.Client(endpoints, api_key="dk_…") as darkroom:
        generation = darkroom.generate(client.image("pocket-image", "a red circle on a white background"))
        darkroom.download(generation.artifacts[0], pathlib.Path("circle.png"))
"""

from darkroom.client.aio import FINAL_STATES, AsyncClient
from darkroom.client.blocking import Client
from darkroom.client.request import Endpoints, audio, image, video

__all__ = ["FINAL_STATES", "AsyncClient", "Client", "Endpoints", "audio", "image", "video"]
